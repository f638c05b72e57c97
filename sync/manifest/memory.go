package manifest

import (
	"reflect"
	"time"
)

// memoryOf is about how many bytes of memory a value takes beyond its own: what it points to, and what its lists, maps and
// texts have in them. Three bytes of a manifest, an empty entry of a list, may be a kilobyte of an object.
func memoryOf(v reflect.Value) int64 {
	const entry = 16 // of a map, beside key and value
	var n int64
	switch v.Kind() {
	case reflect.String:
		return int64(v.Len())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = int64(v.Elem().Type().Size()) + memoryOf(v.Elem())
		}
	case reflect.Slice:
		n = int64(v.Cap()) * int64(v.Type().Elem().Size())
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return n
		}
		for i := range v.Len() {
			n += memoryOf(v.Index(i))
		}
	case reflect.Map:
		each := int64(v.Type().Key().Size()+v.Type().Elem().Size()) + entry
		for i := v.MapRange(); i.Next(); {
			n += each + memoryOf(i.Key()) + memoryOf(i.Value())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0 // what it points to is shared
		}
		for i := range v.NumField() {
			n += memoryOf(v.Field(i))
		}
	}
	return n
}
