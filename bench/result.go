package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// Row is one figure. Value and Bound have the unit; Ratio is Value to Bound.
type Row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Bound is what the libraries or tools below take alone; null where the goal is absolute.
	Bound *float64 `json:"bound"`
	Ratio *float64 `json:"ratio"`
	// Goal is in words; empty where the figure is for information, which always passes.
	Goal string `json:"goal"`
	Pass bool   `json:"pass"`
}

// within is a figure that shall be at most a multiple of its bound.
func within(name, unit string, value, bound, most float64) Row {
	return Row{name, value, unit, &bound, ratio(value, bound), fmt.Sprintf("<= %g x", most), value <= most*bound}
}

// reaching is a rate that shall be at least a part of its bound.
func reaching(name, unit string, value, bound, least float64) Row {
	return Row{name, value, unit, &bound, ratio(value, bound), fmt.Sprintf(">= %g x", least), value >= least*bound}
}

// below is a figure with an absolute limit.
func below(name, unit string, value, limit float64) Row {
	return Row{Name: name, Value: value, Unit: unit, Goal: fmt.Sprintf("<= %g %s", limit, unit), Pass: value <= limit}
}

// atLeast is a figure with an absolute least.
func atLeast(name, unit string, value, least float64) Row {
	return Row{Name: name, Value: value, Unit: unit, Goal: fmt.Sprintf(">= %g %s", least, unit), Pass: value >= least}
}

// beside is a figure for information, with what it compares to.
func beside(name, unit string, value, bound float64) Row {
	return Row{Name: name, Value: value, Unit: unit, Bound: &bound, Ratio: ratio(value, bound), Pass: true}
}

// plain is a figure for information.
func plain(name, unit string, value float64) Row {
	return Row{Name: name, Value: value, Unit: unit, Pass: true}
}

func ratio(value, bound float64) *float64 {
	r := value / bound
	return &r
}

func save(path string, rows []Row) error {
	raw, err := json.MarshalIndent(rows, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot save the figures: %w", err)
	}
	return nil
}

func table(to io.Writer, rows []Row) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVALUE\tUNIT\tBOUND\tRATIO\tGOAL\tPASS")
	for _, r := range rows {
		bound, part, goal, pass := "-", "-", "-", "-"
		if r.Bound != nil {
			bound, part = figure(*r.Bound), fmt.Sprintf("%.2f", *r.Ratio)
		}
		if r.Goal != "" {
			goal, pass = r.Goal, "yes"
			if !r.Pass {
				pass = "NO"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, figure(r.Value), r.Unit, bound, part, goal, pass)
	}
	return w.Flush()
}

// figure has three digits or, where a number is large, all before the point.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
