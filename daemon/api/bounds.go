package api

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"lockstep/kinds"
	"lockstep/kinds/quantity"
)

// boundedCodecs are codecs that decode no quantity out of bounds, in any of their encodings.
type boundedCodecs struct{ serializer.CodecFactory }

// SupportedMediaTypes implements runtime.NegotiatedSerializer.
func (c boundedCodecs) SupportedMediaTypes() []runtime.SerializerInfo {
	infos := slices.Clone(c.CodecFactory.SupportedMediaTypes()) // the factory's own are everybody's
	for i := range infos {
		infos[i].Serializer = boundedSerializer{infos[i].Serializer, infos[i].MediaType}
		if infos[i].StrictSerializer != nil {
			infos[i].StrictSerializer = boundedSerializer{infos[i].StrictSerializer, infos[i].MediaType}
		}
	}
	return infos
}

type boundedSerializer struct {
	runtime.Serializer
	mediaType string
}

// Decode implements runtime.Decoder.
func (s boundedSerializer) Decode(data []byte, defaults *schema.GroupVersionKind,
	into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if err := s.check(data, defaults, into); err != nil {
		return nil, nil, err
	}
	return s.Serializer.Decode(data, defaults, into)
}

// check finds the type as decoders do: the data names it, else the caller. What it cannot read the decoder refuses.
func (s boundedSerializer) check(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) error {
	if s.mediaType == runtime.ContentTypeProtobuf {
		var unknown runtime.Unknown
		raw, ours := bytes.CutPrefix(data, []byte("k8s\x00"))
		if !ours || unknown.Unmarshal(raw) != nil {
			return nil
		}
		if o := emptyOf(unknown.GroupVersionKind(), defaults, into); o != nil {
			return quantity.InProtobuf(unknown.Raw, o)
		}
		return nil
	}
	if s.mediaType == runtime.ContentTypeYAML {
		var err error
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil //nolint:nilerr // the decoder tells it
		}
	}
	stated, err := json.DefaultMetaFactory.Interpret(data)
	if err != nil {
		return nil //nolint:nilerr // the decoder tells it
	}
	if o := emptyOf(*stated, defaults, into); o != nil {
		return quantity.InJSON(data, o)
	}
	return nil
}

// emptyOf is an object of the kind that is stated, where something is not, of the default's or into's; nil: there is none.
func emptyOf(gvk schema.GroupVersionKind, defaults *schema.GroupVersionKind, into runtime.Object) runtime.Object {
	others := []schema.GroupVersionKind{}
	if defaults != nil {
		others = append(others, *defaults)
	}
	if into != nil {
		known, _, err := scheme.ObjectKinds(into)
		if err != nil {
			return into
		}
		others = append(others, known[0])
	}
	for _, other := range others {
		if gvk.Kind == "" {
			gvk.Kind = other.Kind
		}
		if gvk.Version == "" {
			gvk.Group, gvk.Version = other.Group, other.Version
		}
	}
	o, err := scheme.New(gvk)
	if err != nil {
		return nil
	}
	return o
}

// boundedPatch checks the quantities of strategic merge patches, which are decoded without a codec.
func (s *server) boundedPatch(k *kinds.Kind, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if strings.TrimSpace(mediaType) == string(types.StrategicMergePatchType) {
			// What fails or is too long here fails again for the handler, which finds the words.
			body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
			if err := quantity.InJSON(body, k.New()); err != nil {
				s.fail(w, r, apierrors.NewBadRequest(err.Error()))
				return
			}
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
		}
		next.ServeHTTP(w, r)
	})
}
