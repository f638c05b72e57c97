package strategy

import (
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	"lockstep/internal/giturl"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
)

var printer = printers.NewTableGenerator().With(printersinternal.AddHandlers)

// Table prints objects, all of kind k, with Kubernetes' own columns, the wide ones included (they have a priority above
// zero). Each row carries what opts.IncludeObject asks for: the object, its metadata (also where opts is nil or names
// nothing), or nothing. An empty list gives a table of columns.
func Table(k *kinds.Kind, objects []kinds.Object, opts *metav1.TableOptions) (*metav1.Table, error) {
	if opts == nil {
		opts = &metav1.TableOptions{}
	}
	table, err := printed(k, objects, opts.NoHeaders)
	if err != nil {
		return nil, err
	}
	table.SetGroupVersionKind(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1", Kind: "Table"})
	table.ListMeta = metav1.ListMeta{}
	if len(table.Rows) != len(objects) {
		return nil, fmt.Errorf("cannot print %s: %d rows for %d objects", k.Resource, len(table.Rows), len(objects))
	}
	for i, o := range objects {
		switch row := &table.Rows[i]; opts.IncludeObject {
		case metav1.IncludeNone:
			row.Object = runtime.RawExtension{}
		case metav1.IncludeObject:
			row.Object = runtime.RawExtension{Object: o}
		default:
			row.Object = runtime.RawExtension{Object: metadataOf(o)}
		}
	}
	return table, nil
}

func printed(k *kinds.Kind, objects []kinds.Object, noHeaders bool) (*metav1.Table, error) {
	if k.GroupVersion() == v1alpha1.GroupVersion {
		return printSources(objects, noHeaders), nil
	}
	if registryOf(k).plain {
		return printPlain(objects, noHeaders), nil
	}
	list, err := legacyscheme.Scheme.New(schema.GroupVersionKind{
		Group:   k.Group,
		Version: runtime.APIVersionInternal,
		Kind:    k.Kind + "List",
	})
	if err != nil {
		return nil, fmt.Errorf("cannot print %s: %w", k.Resource, err)
	}
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return nil, fmt.Errorf("cannot print %s: %w", k.Resource, err)
	}
	slice := reflect.ValueOf(items).Elem()
	slice.Set(reflect.MakeSlice(slice.Type(), 0, len(objects)))
	for _, o := range objects {
		internal, err := readInternal(o)
		if err != nil {
			return nil, err
		}
		slice.Set(reflect.Append(slice, reflect.ValueOf(internal).Elem()))
	}
	table, err := printer.GenerateTable(list, printers.GenerateOptions{Wide: true, NoHeaders: noHeaders})
	if err != nil {
		return nil, fmt.Errorf("cannot print %s: %w", k.Resource, err)
	}
	return table, nil
}

// readInternal converts an object of a view, which is shared and must not change, not even for a moment.
func readInternal(o kinds.Object) (runtime.Object, error) {
	k := kinds.Of(o)
	internal, err := legacyscheme.Scheme.New(schema.GroupVersionKind{Group: k.Group, Version: runtime.APIVersionInternal, Kind: k.Kind})
	if err == nil {
		err = legacyscheme.Scheme.Convert(o, internal, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot convert %s: %w", kinds.KeyOf(o), err)
	}
	return internal, nil
}

func metadataOf(o kinds.Object) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(o)
	p.SetGroupVersionKind(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1", Kind: "PartialObjectMetadata"})
	return p
}

// printPlain has the columns of Kubernetes' rest.NewDefaultTableConvertor.
func printPlain(objects []kinds.Object, noHeaders bool) *metav1.Table {
	table := &metav1.Table{}
	if !noHeaders {
		table.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
			{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
		}
	}
	for _, o := range objects {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{
			o.GetName(), o.GetCreationTimestamp().UTC().Format(time.RFC3339),
		}})
	}
	return table
}

func printSources(objects []kinds.Object, noHeaders bool) *metav1.Table {
	table := &metav1.Table{}
	if !noHeaders {
		table.ColumnDefinitions = sourceColumns
	}
	for _, o := range objects {
		s := o.(*v1alpha1.Source)
		from := s.Spec.Folder
		if from == "" {
			from = giturl.Redact(s.Spec.URL)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{
			s.Name, s.Status.State, s.Status.Seen, fmt.Sprintf("%d/%d", s.Status.Healthy, s.Status.Objects),
			metatable.ConvertToHumanReadableDateType(s.CreationTimestamp), from, s.Status.Message,
		}})
	}
	return table
}

// FieldSelector returns the field and value that a field selector's pair stands for, or an error as Kubernetes words it
// where the kind cannot be selected by that field.
func FieldSelector(k *kinds.Kind, label, value string) (string, string, error) {
	if k.GroupVersion() == v1alpha1.GroupVersion {
		return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
	}
	return legacyscheme.Scheme.ConvertFieldLabel(k.GroupVersionKind, label, value)
}

// SelectableFields returns the fields of an object by which field selectors select, as Kubernetes has them.
func SelectableFields(o kinds.Object) fields.Set {
	k := kinds.Of(o)
	set := fields.Set{"metadata.name": o.GetName()}
	if k.Namespaced {
		set["metadata.namespace"] = o.GetNamespace()
	}
	if add := registryOf(k).fields; add != nil {
		add(o, set)
	}
	return set
}
