// Package clone keeps the clone of one Git repository, in a process of its own that may use so much and no more.
//
// What a Git server sends decides how much memory and time it takes to read, and go-git inflates whole objects. So the
// daemon starts a process for each repository that it looks at (Worker), and reads from it names, hashes and bounded
// contents; where such a process runs out of what it may use, it alone ends.
package clone

import (
	"time"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest/tree"
)

// Limits bound what one repository may cost. The zero value of a field is its default, in the order of the fields.
type Limits struct {
	// Memory bounds the process' data in bytes: 768 MiB, what the other limits add up to in go-git's hands.
	Memory int64
	// CPU bounds what one look takes of a processor: 15 minutes, far more than indexing a gigabyte does.
	CPU time.Duration
	// Total bounds one look, however busy: an hour.
	Total time.Duration
	// Listing bounds in bytes what a server says about its references: 32 MiB, some 400,000 of them.
	Listing int64
	// Pack bounds one fetch in bytes: 1 GiB.
	Pack int64
	// Unpacked bounds the same once it is inflated: 8 GiB.
	Unpacked int64
	// Objects bounds how many there are in one fetch: a million.
	Objects int64
	// Object bounds one of them, a file of any kind, in bytes: 100 MiB, as the large forges do.
	Object int64
	// Commit bounds a commit with its message, and a tag, in bytes: 1 MiB.
	Commit int64
	// Tree bounds the walk over a commit's files; all its fields or none are zero.
	Tree tree.Limits
}

// OrDefault has no zero values.
func (l Limits) OrDefault() Limits {
	def := Limits{
		Memory: 768 << 20, CPU: 15 * time.Minute, Total: time.Hour, Listing: 32 << 20, Pack: 1 << 30, Unpacked: 8 << 30,
		Objects: 1_000_000, Object: 100 << 20, Commit: 1 << 20,
	}
	for _, f := range []struct{ value, def *int64 }{
		{&l.Memory, &def.Memory}, {&l.Listing, &def.Listing}, {&l.Pack, &def.Pack}, {&l.Unpacked, &def.Unpacked},
		{&l.Objects, &def.Objects}, {&l.Object, &def.Object}, {&l.Commit, &def.Commit},
	} {
		if *f.value == 0 {
			*f.value = *f.def
		}
	}
	if l.CPU == 0 {
		l.CPU = def.CPU
	}
	if l.Total == 0 {
		l.Total = def.Total
	}
	if l.Tree == (tree.Limits{}) {
		l.Tree = tree.Bounds()
	}
	return l
}

// Place is a repository and the folder of its clone.
type Place struct {
	Dir         string
	URL         string
	Credentials *v1alpha1.Credentials
	// Silence is how long a server may say nothing, while nothing else is done.
	Silence time.Duration
	Limits  Limits
}

// Wanted is one source of the repository.
type Wanted struct {
	Name              string
	Branch, Tag, Path string
	// Have is the commit whose revision is known: it is not read again.
	Have string
}

// Look asks for the newest revision of each source.
type Look struct {
	Sources []Wanted
	// Anew asks for a new clone first: the one that is there is damaged.
	Anew bool
}

// Found is what a look came to for one source.
type Found struct {
	Name string
	// Commit is what the reference is at; empty where Err is about the reference itself.
	Commit   string
	Revision *Revision // nil: Commit is the one that the asker has, or there is an error
	Err      *Failure
}

// Revision is a commit as its manifests are read. Texts are as the commit has them, within the limits.
type Revision struct {
	ID      string
	Author  string
	Message string
	Time    time.Time
	Files   tree.Found
}

// Failure is an error that has come from another process.
type Failure struct {
	Text string
	// NotFound: the branch, tag or path is not there (yet).
	NotFound bool
	// Limit: it is more than the limits allow, and will be again until the reference moves.
	Limit bool
	// Remote: the server answered so, or did not, for all that was asked.
	Remote bool
	// Damaged: the clone cannot be read.
	Damaged bool
}

// Error implements error.
func (f *Failure) Error() string { return f.Text }

// Step is one thing that a look did, for metrics.
type Step struct {
	Name string // list, fetch, walk
	Took time.Duration
	// Way of a fetch: incremental, clone, shallow; and how it ended.
	Way    string
	Failed bool
}

// Passed asks which commits a branch passed on its way from one tip to another, at most so many.
type Passed struct {
	From, To string
	Most     int
}

// request is what the process is asked; one of the others is set. Place is the same in all requests to one process.
type request struct {
	Place  Place
	Look   *Look
	Read   string // a file's hash
	Passed *Passed
}

// reply answers a request. A look is answered by Commits as soon as they are known, by source, and then by the rest.
type reply struct {
	Commits map[string]string
	Done    bool
	Found   []Found
	Data    []byte
	Passed  []string
	Err     *Failure
	Steps   []Step
	Notes   []string
	// Busy is what the process has used of processors so far.
	Busy time.Duration
}
