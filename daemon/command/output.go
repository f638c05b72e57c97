package command

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/pflag"
)

// outputFlag is --output: text, or json for programs.
type outputFlag string

func (f *outputFlag) add(flags *pflag.FlagSet) {
	flags.StringVarP((*string)(f), "output", "o", "text", "`FORM` of the output: text or json")
}

func (f outputFlag) check() error {
	if f != "text" && f != "json" {
		return fmt.Errorf("cannot use --output %q: want text or json", string(f))
	}
	return nil
}

// print prints a report as JSON, or has text print it.
func (f outputFlag) print(out io.Writer, report any, text func() error) error {
	if f != "json" {
		return text()
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}
