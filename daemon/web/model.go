package web

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"lockstep/daemon/provenance"
	"lockstep/internal/giturl"
	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/found"
	"lockstep/sync/health"
	"lockstep/sync/report"
	"lockstep/sync/verdict"
)

const (
	// maxRows bounds each table: a page is read by people, and kubectl has the rest.
	maxRows = 500
	// maxEvents are the newest ones.
	maxEvents = 50
	// maxChain bounds the way from a pod to who declared it; Kubernetes' longest is three.
	maxChain = 8
)

// page is everything a template shows. Sections that are nil are left out.
type page struct {
	Cluster, Title, Version, At string
	Problem                     string
	Facts                       []fact
	Revision                    *revisionRow
	Sources                     []sourceRow
	Objects                     *objectTable
	Nodes                       []nodeRow
	Left                        *leftTable
	Drift                       *driftTable
	Events                      []eventRow
}

// fact is one sentence of what is the matter, for those who only glance.
type fact struct{ Text, Class string }

type sourceRow struct {
	Name, Place        string
	State, Message     string
	Seen, Accepted     string
	Applied            string
	Objects, Healthy   int32
	Errors             []string
	FetchError         string
	Drift, ForgeError  string
	LeftOut            string
	Warnings           []string
	Since, SinceExact  string
	Link, RevisionLink string
	AcceptedLink       string
}

// revisionRow is one revision of a source and what became of it.
type revisionRow struct {
	ID, Source     string
	State, Message string
	Errors         []string
	// Known is false for a revision of which nothing is kept any more.
	Known, Accepted bool
}

type objectTable struct {
	Rows    []objectRow
	More    int // rows left out
	Healthy int // of all, also of those left out
}

type objectRow struct {
	Name                          string
	State, Cause                  string
	Source, Place, Commit, Author string
	Link                          string
}

// leftTable is what nothing asks for any more, and stays.
type leftTable struct {
	Rows []leftRow
	More int // rows left out
}

type leftRow struct{ Name, Size, Node, Why string }

// driftTable is what differed though nobody pushed.
type driftTable struct {
	Rows []driftRow
	More int // rows left out
}

type driftRow struct {
	Age, Exact             string
	Kind, Node             string
	Object, What           string
	Evidence               []string
	Outcome, How, Class    string
	Place, Commit, Author  string
	Source, RevisionOfLink string
}

type nodeRow struct {
	Name            string
	Ready           bool
	Silent          bool
	Reason, Address string
	Version, Age    string
	Pods            []podRow
	More            int
}

type podRow struct {
	Name                   string
	Phase, Age             string
	Scores                 string // of the best nodes for it; empty: nobody compared any
	Waits                  string // why no node takes it, or cannot start it, or has given it up
	Containers             []containerRow
	Owners                 []string // from the pod outwards
	Place, Commit, Author  string
	Source, RevisionOfLink string
}

type containerRow struct {
	Name, Image string
	State       string // running, waiting, terminated
	Reason      string
	Class       string // healthy, progressing, failed
	Restarts    int32
	// Last is how it ended last time; empty where it has not, or where that is its state.
	Last string
	// Init says that the pod's containers wait for its end.
	Init bool
}

type eventRow struct {
	Type, Reason, Object, Message string
	Age                           string
	Count                         int32
}

// sources are the rows of all sources, or of the one named.
func sources(v *view.View, now time.Time, name string) []sourceRow {
	var out []sourceRow
	for s := range view.List[*v1alpha1.Source](v, "") {
		if name != "" && s.Name != name {
			continue
		}
		st := s.Status
		row := sourceRow{
			Name: s.Name, Place: placeOf(s), State: st.State, Message: st.Message, Seen: st.Seen, Accepted: st.Accepted,
			Applied: st.Applied, Objects: st.Objects, Healthy: st.Healthy, Errors: st.Errors, FetchError: st.FetchError,
			Drift: st.Drift, ForgeError: st.ForgeError, LeftOut: st.UntoldLeftOut(), Warnings: st.Warnings,
			Link: "/sources/" + url.PathEscape(s.Name),
		}
		switch {
		case row.State == "" && row.FetchError != "":
			row.State = "unreadable"
		case row.State == "":
			row.State = "unknown"
		}
		if !st.Since.IsZero() {
			row.Since, row.SinceExact = age(now, st.Since.Time), st.Since.UTC().Format(time.RFC3339)
		}
		if st.Seen != "" {
			row.RevisionLink = RevisionPath(s.Name, st.Seen)
		}
		if st.Accepted != "" {
			row.AcceptedLink = RevisionPath(s.Name, st.Accepted)
		}
		if len(row.Errors) == 1 && row.Errors[0] == row.Message {
			row.Errors = nil // it is told already
		}
		out = append(out, row)
	}
	return out
}

// placeOf names where a source reads from, without anything that could be a password.
func placeOf(s *v1alpha1.Source) string {
	place := s.Spec.Folder
	if place == "" {
		place = giturl.Redact(s.Spec.URL)
	}
	for _, part := range []struct{ word, value string }{{"branch", s.Spec.Branch}, {"tag", s.Spec.Tag}, {"path", s.Spec.Path}} {
		if part.value != "" {
			place += ", " + part.word + " " + part.value
		}
	}
	return place
}

func revisionOf(v *view.View, s sourceRow, revision string) *revisionRow {
	row := &revisionRow{ID: revision, Source: s.Name, Accepted: revision == s.Accepted, Known: true}
	if revision == s.Seen {
		row.State, row.Message, row.Errors = s.State, s.Message, s.Errors
		return row
	}
	if last, ok := verdict.Last(v, verdict.Entry{Source: s.Name, Revision: revision, Kind: verdict.Outcome}.Name()); ok {
		row.State, row.Message = string(last.Status.State), last.Status.Description
	}
	switch {
	case row.State != "":
	case row.Accepted: // nothing is kept of verdicts that no forge is told
		row.State, row.Message = "in force", fmt.Sprintf("%d of %s healthy", s.Healthy, plural(int(s.Objects), "object"))
	default:
		row.State, row.Known = "unknown", false
	}
	return row
}

// objects are the declared objects: of every source or one, of every revision or those whose content came with one.
func (s *Server) objects(v *view.View, now time.Time, source, revision string) *objectTable {
	table := &objectTable{}
	for from := range view.List[*v1alpha1.Source](v, "") {
		if source != "" && from.Name != source {
			continue
		}
		inventory, _ := s.opts.Inventories.Of(v, from.Name) // what cannot be read the next apply writes anew
		for _, o := range report.Of(inventory, v, now).Objects {
			if revision != "" && o.Stated.Commit != revision {
				continue
			}
			if o.Health.State == kinds.Healthy {
				table.Healthy++
			}
			table.Rows = append(table.Rows, objectRow{
				Name: o.Stated.Key.String(), State: o.State(), Cause: o.Health.Text(), Source: from.Name,
				Place: plain.Text(o.Stated.Place()), Commit: plain.Text(o.Stated.Commit), Author: plain.Text(o.Stated.Author),
				Link: RevisionPath(from.Name, o.Stated.Commit),
			})
		}
	}
	// What needs a look comes first.
	slices.SortStableFunc(table.Rows, func(a, b objectRow) int { return cmp.Compare(rank(a.State), rank(b.State)) })
	if over := len(table.Rows) - maxRows; over > 0 {
		table.Rows, table.More = table.Rows[:maxRows], over
	}
	return table
}

// left are the claims and volumes that nothing asks for any more; nil: there are none.
func left(all []report.Left) *leftTable {
	table := &leftTable{}
	for _, l := range all {
		table.Rows = append(table.Rows, leftRow{Name: l.Key.String(), Size: l.Size, Node: l.Node, Why: l.Why})
	}
	if over := len(table.Rows) - maxRows; over > 0 {
		table.Rows, table.More = table.Rows[:maxRows], over
	}
	if len(table.Rows) == 0 {
		return nil
	}
	return table
}

// drifts are what differed though nobody pushed, the newest first: of all, of a source, or of what came with a revision. Nil: nothing.
func drifts(v *view.View, now time.Time, source, revision string) *driftTable {
	all, _ := found.In(v, found.Filter{Source: source})
	table := &driftTable{}
	for _, f := range all {
		if revision != "" && f.Commit != revision {
			continue
		}
		if len(table.Rows) == maxEvents {
			table.More++
			continue
		}
		row := driftRow{
			Age: age(now, f.Noticed), Exact: f.Noticed.UTC().Format(time.RFC3339), Kind: f.Kind.Word(), Node: f.Node, Object: f.Object,
			What: f.What, Evidence: f.Evidence, Outcome: f.Outcome(), How: f.How, Class: "failed", Place: f.File, Commit: f.Commit,
			Author: f.Author, Source: f.Source,
		}
		if f.Place != "" {
			row.What = f.Place + ": " + row.What
		}
		switch {
		case !f.Repaired.IsZero():
			row.Class = "healthy"
		case f.Open:
			row.Class = "progressing"
		}
		if f.Commit != "" {
			row.RevisionOfLink = RevisionPath(f.Source, f.Commit)
		}
		table.Rows = append(table.Rows, row)
	}
	if len(table.Rows) == 0 {
		return nil
	}
	return table
}

func rank(state string) int { return slices.Index([]string{"failed", "progressing", "healthy"}, state) }

// nodes are the nodes with their pods, and last, without a name, the pods that are bound to none.
func (s *Server) nodes(v *view.View, now time.Time) []nodeRow {
	out := []nodeRow{}
	for n := range view.List[*corev1.Node](v, "") {
		row := nodeRow{
			Name:    n.Name,
			Version: n.Status.NodeInfo.KubeletVersion,
			Age:     age(now, n.CreationTimestamp.Time),
			Reason:  "not reported yet",
		}
		if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil {
			row.Ready, row.Reason = c.Status == corev1.ConditionTrue, c.Message
		}
		if silence := health.Silence(v, n.Name, now); silence != "" {
			row.Silent, row.Reason = true, silence
		} else if row.Ready {
			row.Reason = strings.Join(health.Troubles(v, n.Name, now), "; ")
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				row.Address = a.Address
				break
			}
		}
		s.fillPods(v, now, &row)
		out = append(out, row)
	}
	var unbound nodeRow
	if s.fillPods(v, now, &unbound); len(unbound.Pods) > 0 {
		out = append(out, unbound)
	}
	return out
}

func (s *Server) fillPods(v *view.View, now time.Time, row *nodeRow) {
	for p := range v.PodsOnNode(row.Name) {
		if len(row.Pods) == maxRows {
			row.More++
			continue
		}
		row.Pods = append(row.Pods, s.pod(v, now, p))
	}
}

func (s *Server) pod(v *view.View, now time.Time, p *corev1.Pod) podRow {
	row := podRow{Name: p.Namespace + "/" + p.Name, Phase: string(p.Status.Phase), Age: age(now, p.CreationTimestamp.Time)}
	if p.DeletionTimestamp != nil {
		row.Phase = "Terminating"
	}
	row.Scores = p.Annotations[kinds.AnnotationScores]
	if p.Status.Phase == corev1.PodFailed && p.Status.Message != "" {
		row.Waits = p.Status.Reason + ": " + p.Status.Message
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			row.Waits = c.Message
		case c.Type == corev1.PodReadyToStartContainers && c.Reason != "": // no volume, or no sandbox, can be had on its node
			row.Waits = c.Reason + ": " + c.Message
		}
	}
	for _, c := range p.Spec.InitContainers {
		if init := containerOf(c, p.Status.InitContainerStatuses); init.State != "terminated" || init.Class != "healthy" {
			init.Init = true
			row.Containers = append(row.Containers, init)
		}
	}
	for _, c := range p.Spec.Containers {
		row.Containers = append(row.Containers, containerOf(c, p.Status.ContainerStatuses))
	}
	var o kinds.Object = p
	for range maxChain {
		if o = provenance.Controller(v, o); o == nil {
			break
		}
		row.Owners = append(row.Owners, kinds.Of(o).Kind+" "+o.GetName())
	}
	if origin, ok := s.origins.Of(v, p); ok {
		row.Place, row.Commit, row.Author, row.Source = origin.Place(), origin.Commit, origin.Author, origin.Source
		row.RevisionOfLink = RevisionPath(origin.Source, origin.Commit)
	}
	return row
}

func containerOf(c corev1.Container, statuses []corev1.ContainerStatus) containerRow {
	row := containerRow{Name: c.Name, Image: c.Image, State: "waiting", Class: "progressing"}
	for _, st := range statuses {
		if st.Name != c.Name {
			continue
		}
		row.Restarts = st.RestartCount
		if last := st.LastTerminationState.Terminated; last != nil {
			row.Last = fmt.Sprintf("%s, exit code %d", last.Reason, last.ExitCode)
		}
		switch state := st.State; {
		case state.Running != nil:
			row.State = "running"
			if st.Ready {
				row.Class = "healthy"
			}
		case state.Terminated != nil:
			row.State, row.Reason, row.Class = "terminated", state.Terminated.Reason, "failed"
			if state.Terminated.ExitCode == 0 {
				row.Class = "healthy"
			}
		case state.Waiting != nil:
			row.Reason = state.Waiting.Reason
			switch going := row.Reason == "ContainerCreating" || row.Reason == "PodInitializing"; {
			case row.Reason != "" && !going:
				row.Class = "failed"
			case going && state.Waiting.Message != "": // how far a pull is
				row.Reason += ": " + plain.Text(state.Waiting.Message)
			}
		}
	}
	return row
}

// events are the newest events, the newest first.
func events(v *view.View, now time.Time) []eventRow {
	type timed struct {
		at time.Time
		e  *corev1.Event
	}
	var all []timed
	for e := range view.List[*corev1.Event](v, "") {
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		if at.IsZero() || at.After(now) { // else a clock that is ahead would stand above all others
			at = e.CreationTimestamp.Time
		}
		all = append(all, timed{at, e})
	}
	slices.SortStableFunc(all, func(a, b timed) int { return b.at.Compare(a.at) })
	out := []eventRow{}
	for _, t := range all[:min(len(all), maxEvents)] {
		about := t.e.InvolvedObject
		name := about.Name
		if about.Namespace != "" {
			name = about.Namespace + "/" + name
		}
		out = append(out, eventRow{
			Type: t.e.Type, Reason: t.e.Reason, Object: about.Kind + " " + name, Message: t.e.Message,
			Age: age(now, t.at), Count: max(t.e.Count, 1),
		})
	}
	return out
}

// facts sum a page up: what the sources say, how many objects are healthy, and what the nodes run.
func facts(p *page) []fact {
	var out []fact
	states := map[string]int{}
	for _, s := range p.Sources {
		states[s.State]++
	}
	for _, s := range []struct{ state, class string }{
		{"unreadable", "failed"}, {"error", "failed"}, {"failure", "failed"}, {"pending", "progressing"},
		{"unknown", "progressing"}, {"success", "healthy"},
	} {
		if n := states[s.state]; n > 0 {
			out = append(out, fact{fmt.Sprintf("%s: %s", plural(n, "source"), s.state), s.class})
		}
	}
	unread := 0
	for _, s := range p.Sources {
		if s.FetchError != "" && s.State != "unreadable" {
			unread++
		}
	}
	if unread > 0 {
		out = append(out, fact{plural(unread, "source") + ": cannot be read now", "failed"})
	}
	if p.Objects != nil {
		all := len(p.Objects.Rows) + p.Objects.More
		failed := all > 0 && p.Objects.Rows[0].State == "failed" // those come first
		out = append(out, ratio(p.Objects.Healthy, all, failed, "objects healthy"))
	}
	ready, all, pods, running, failed := 0, 0, 0, 0, false
	for _, n := range p.Nodes {
		if n.Name != "" {
			all++
		}
		if n.Ready {
			ready++
		}
		pods += len(n.Pods) + n.More
		if n.Silent { // nobody knows how they are
			failed = failed || len(n.Pods) > 0
			continue
		}
		running += n.More // not looked at; the node says whether it is well
		for _, pod := range n.Pods {
			rejected := pod.Phase == string(corev1.PodFailed) // which may have no container to say so
			if pod.every("healthy") && pod.Phase != string(corev1.PodPending) && !rejected {
				running++
			}
			failed = failed || rejected || pod.any("failed")
		}
	}
	return append(out, ratio(ready, all, true, "nodes ready"), ratio(running, pods, failed, "pods well"))
}

func (p *podRow) any(class string) bool {
	return slices.ContainsFunc(p.Containers, func(c containerRow) bool { return c.Class == class })
}

func (p *podRow) every(class string) bool {
	return !slices.ContainsFunc(p.Containers, func(c containerRow) bool { return c.Class != class })
}

// ratio is good where nothing is missing, and bad where something is that has failed.
func ratio(n, of int, failed bool, what string) fact {
	class := "healthy"
	switch {
	case n < of && failed:
		class = "failed"
	case n < of:
		class = "progressing"
	}
	return fact{fmt.Sprintf("%d of %d %s", n, of, what), class}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// person is the name of a commit's author, without the address.
func person(author string) string {
	if name, _, ok := strings.Cut(author, " <"); ok && name != "" {
		return name
	}
	return author
}

// ahead is how far in the future a time may be that another machine's clock has told.
const ahead = time.Minute

// age writes how long ago something was, as kubectl does, and says where it has not been yet.
func age(now, then time.Time) string {
	switch {
	case then.IsZero():
		return ""
	case then.After(now.Add(ahead)):
		return "in the future"
	case then.After(now):
		then = now
	}
	return duration.HumanDuration(now.Sub(then))
}
