package plain

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"plain, Ærø, 日本　語, 👩‍🚀, می‌خواهم": "plain, Ærø, 日本　語, 👩‍🚀, می‌خواهم",
		"\x1b]0;owned\x07\x1b[2J":         `\x1b]0;owned\a\x1b[2J`,
		"one\ntwo\r\tthree\x00\x7f":       `one\ntwo\r\tthree\x00\x7f`,
		"\u009b31m\u0085":                 `\u009b31m\u0085`,
		"user\u202egpj.exe\u2066\u2069":   `user\u202egpj.exe\u2066\u2069`,
		"a\u2028b\u2029c\ufeffd\u00ad":    `a\u2028b\u2029c\ufeffd\u00ad`,
		"\U000e0041":                      `\U000e0041`,
		"\xff\xc3(":                       `\xff\xc3(`,
		"\ufffd":                          "\ufffd",
		`c:\x1b`:                          `c:\x1b`,
		`"quoted" 'too'`:                  `"quoted" 'too'`,
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := Lines("one\ntwo\x1b\r\n"), "one\ntwo\\x1b\\r\n"; got != want {
		t.Errorf("Lines: %q, want %q", got, want)
	}
}

func TestPageIsNot(t *testing.T) {
	if got, want := Page(strings.Repeat("a\n", Max)+"\x1b"), strings.Repeat("a\n", Max)+`\x1b`; got != want {
		t.Errorf("Page ends with %q", got[len(got)-8:])
	}
}

func TestTextIsBounded(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("a", Max+1), strings.Repeat("é", Max), strings.Repeat("\x1b", Max),
		strings.Repeat("\U000e0041", Max),
	} {
		got := Text(s)
		if len(got) > Max || len(got) < Max-16 || !strings.HasSuffix(got, ellipsis) || !utf8.ValidString(got) {
			t.Errorf("Text of %d bytes has %d, ends %q", len(s), len(got), got[len(got)-8:])
		}
	}
	if got := Text(strings.Repeat("a", Max)); len(got) != Max {
		t.Errorf("a text of Max bytes has become one of %d", len(got))
	}
	for most, want := range map[int]string{3: "…", 5: "ab…", 6: "abcdef"} {
		if got := Cut("abcdef", most); got != want {
			t.Errorf("Cut(abcdef, %d) = %q, want %q", most, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[0m\u202e\xff…", 7)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = 3 + int(uint(most)%100)
		once := Cut(s, most)
		if len(once) > most || !utf8.ValidString(once) || !clean(once, false) {
			t.Errorf("Cut(%q, %d) = %q", s, most, once)
		}
		if twice := Cut(once, most); twice != once {
			t.Errorf("Cut twice: %q, then %q", once, twice)
		}
		if whole := Text(s); Text(whole) != whole {
			t.Errorf("Text twice: %q, then %q", whole, Text(whole))
		}
	})
}
