package testkit

import (
	"fmt"
	"reflect"
	"testing"
)

// Leaves calls f for every settable value below v that holds no further ones, with its path, which begins with name.
func Leaves(v reflect.Value, name string, f func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			Leaves(v.Elem(), name, f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			Leaves(v.Field(i), name+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			Leaves(v.Index(i), fmt.Sprintf("%s[%d]", name, i), f)
		}
	default:
		f(name, v)
	}
}

// Change gives a leaf another value.
func Change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(v.Uint() ^ 1)
	case reflect.Array:
		v.Index(0).SetUint(v.Index(0).Uint() ^ 1)
	default:
		t.Fatalf("a field of kind %s: teach this test to change it", v.Kind())
	}
}
