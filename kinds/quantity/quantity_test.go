package quantity

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestCheck(t *testing.T) {
	for _, good := range []string{
		"", "0", "1", "100m", "1.5", "-1", "+1", "64Mi", "16Ei", "1e3", "1E3", "1E", "1e+18", "1e-9", "12E-3", " 5 ", "0.5E", ".5", "5.",
		"000000000000000000000000000000000000000000000000000000000000000000000000000001",
		"abc", "e", "1e", "1e+", "1ee999999", "1x", "1e9x", "1 e999999999", "1e63", "1e-99",
	} {
		if err := Check(good); err != nil {
			t.Errorf("Check(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{
		"1e999999999", "1E+99999999999999999999", "-1e65", "1e-999999999", "0.000001e999999999", strings.Repeat("9", 65),
		strings.Repeat("9", 60) + "E",
		strings.Repeat("0", MaxLength) + "1", strings.Repeat("1", 1<<20), " 1e999999999 ", "9999999999.9999999999e54",
	} {
		if err := Check(bad); err == nil {
			t.Errorf("Check(%.80q) = nil", bad)
		}
	}
}

// What is let in is let in again as it is written afterwards: otherwise what one decoder accepted, another would refuse.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		"1e63", "0.5E", "100Ki", "-9999999999999999999999.99999999999999", "1e-99", "999999999.9999999999e53", "1E",
		"0.1Ei", "12e7",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if Check(text) != nil {
			return
		}
		q, err := resource.ParseQuantity(strings.TrimSpace(text))
		if err != nil {
			return
		}
		if again := canonical(q); Check(again) != nil {
			t.Errorf("%q is written as %q: %v", text, again, Check(again))
		}
	})
}

func canonical(q resource.Quantity) string {
	number, suffix := q.CanonicalizeBytes(nil)
	return string(number) + string(suffix)
}

const bomb = "1e999999999"

func TestInJSON(t *testing.T) {
	for _, good := range []string{
		`{"metadata":{"name":"` + bomb + `","labels":{"a":"` + bomb + `"}},"spec":{"nodeName":"` + bomb + `","containers":[{"name":"` +
			bomb + `","resources":{"limits":{"cpu":"1","memory":7}}}]}}`,
		`{"spec":[{"containers":"` + bomb + `"}]}`, `{"spec":`, `{"spec":{]`, ``, `null`, bomb, strings.Repeat("[", 1<<20),
		`{"spec":` + strings.Repeat(`{"overhead":`, 1<<18),
	} {
		if err := InJSON([]byte(good), &corev1.Pod{}); err != nil {
			t.Errorf("%.200s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`{"spec":{"containers":[{"resources":{"limits":{"cpu":"` + bomb + `"}}}]}}`,
		`{"spec":{"containers":[{"resources":{"limits":{"cpu":` + bomb + `}}}]}}`,
		`{"spec":{"containers":[{"resources":{"limits":{"cpu":"1e9\u00399999999"}}}]}}`,
		`{"spec":{"containers":[{"resources":{"limits":{"cpu":"` + bomb + `","cpu":"1"}}}]}}`,
		`{"spec":{"overhead":{"cpu":"` + bomb + `"}},"spec":{}}`,
		`{"SPEC":{"Overhead":{"cpu":"` + bomb + `"}}}`,
		`{"spec":{"volumes":[{"emptyDir":{"sizeLimit":"` + bomb + `"}}]}}`,
		`{"spec":{"containers":[{"env":[{"valueFrom":{"resourceFieldRef":{"divisor":"` + bomb + `"}}}]}]}}`,
		`{"spec":{"other":[[[{}]]],"overhead":{"cpu":"` + bomb + `"}`,
	} {
		if err := InJSON([]byte(bad), &corev1.Pod{}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if err := InJSON([]byte(`{"items":[{"status":{"capacity":{"cpu":"`+bomb+`"}}}]}`), &corev1.NodeList{}); err == nil {
		t.Error("a list's items are not read")
	}
}

// Every quantity of a type is found in both encodings: each is set to a bomb alone.
func TestEveryQuantityIsFound(t *testing.T) {
	for _, o := range []any{
		&corev1.Pod{}, &corev1.Node{}, &corev1.PodTemplateList{}, &corev1.PersistentVolumeClaim{},
		&corev1.ResourceQuota{}, &corev1.LimitRange{},
	} {
		found := 0
		places(reflect.ValueOf(o).Elem(), func() {
			found++
			raw, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if InJSON(raw, o) == nil {
				t.Errorf("%T: not found in %s", o, raw)
			}
			wire, err := o.(interface{ Marshal() ([]byte, error) }).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if InProtobuf(wire, o) == nil {
				t.Errorf("%T: not found in the message of %s", o, raw)
			}
		})
		if found == 0 || InJSON([]byte("{}"), o) != nil || InProtobuf(nil, o) != nil {
			t.Errorf("%T has %d quantities", o, found)
		}
	}
}

// places sets each quantity below v in turn, and takes it back after the visit.
func places(v reflect.Value, visit func()) {
	if v.Type() == quantity {
		v.Set(reflect.ValueOf(resource.MustParse("1e65")))
		visit()
		v.SetZero()
		return
	}
	if !bears(v.Type()) {
		return
	}
	defer v.SetZero()
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		places(v.Elem(), visit)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		places(v.Index(0), visit)
	case reflect.Map:
		item := reflect.New(v.Type().Elem()).Elem()
		places(item, func() {
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), item)
			visit()
		})
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				places(v.Field(i), visit)
			}
		}
	}
}

func TestBrokenMessagesAreTheDecoders(t *testing.T) {
	wire, err := (&corev1.Node{Status: corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": resource.MustParse("7")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range wire {
		if err := InProtobuf(wire[:i], &corev1.Node{}); err != nil {
			t.Error(err)
		}
	}
}

// TestCounted: what an int64 holds is counted as it is, and nothing as less than it is by much.
func TestCounted(t *testing.T) {
	for text, want := range map[string][2]int64{
		"1500m": {2, 1500}, "-1500m": {-2, -1500}, "9007199254740992": {Most, Most}, "9007199254740": {9007199254740, 9007199254740000},
		"9223372036854776": {Most, Most}, "10E": {Most, Most}, "1e30": {Most, Most}, "-1e30": {-Most, -Most}, "0": {0, 0},
	} {
		q := resource.MustParse(text)
		if got := [2]int64{Value(&q), Milli(&q)}; got != want {
			t.Errorf("%s counts as %v, want %v", text, got, want)
		}
	}
}
