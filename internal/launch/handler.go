package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"sync"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/sandbox"
)

// maxRequest bounds the body of a request.
const maxRequest = 1 << 20

var idForm = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// A Handler has a backend do what workers ask for.
type Handler struct {
	Backend sandbox.Backend

	// Installation is whose sandboxes they are, see [In], and Schema what its workers call it; empty: they may call it as they like.
	Installation, Schema string

	// Images are those that workers may name.
	Images Images

	// Witness is what a sandbox gets to prove itself with.
	Witness func(id string) envelope.Witness

	// Admit says whether the connection of a request may become one to a sandbox.
	Admit func(ctx context.Context, id string) error

	// Done ends the connections to sandboxes.
	Done context.Context //nolint:containedctx // of the service, which no request outlives
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(In(r.Context(), h.Installation))
	call := r.URL.Path[len(Path):]
	if call == "Dial" {
		h.dial(w, r)
		return
	}
	var in Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in); err != nil {
		http.Error(w, "no request", http.StatusBadRequest)
		return
	}
	out, err := h.do(r.Context(), call, in)
	if err != nil {
		Refuse(w, err)
		return
	}
	answer(w, out)
}

// Refuse answers with an error.
func Refuse(w http.ResponseWriter, err error) { answer(w, Response{Failure: newFailure(err)}) }

func answer(w http.ResponseWriter, out Response) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (h *Handler) do(ctx context.Context, call string, in Request) (out Response, err error) {
	switch call {
	case "Probe":
		c, err := h.Backend.Probe(ctx)
		return Response{Capabilities: &c}, err
	case "Create":
		if in.Creation == nil || !idForm.MatchString(in.Creation.ID) {
			return out, fmt.Errorf("sandbox: a sandbox without an id of 1 to 40 of [a-z0-9-]")
		}
		if err := in.Creation.Spec.Validate(); err != nil {
			return out, err
		}
		if err := h.admits(*in.Creation); err != nil {
			return out, err
		}
		e, err := h.Backend.Create(With(ctx, h.Witness(in.Creation.ID)), *in.Creation)
		return Response{Enforcement: &e}, err
	case "List":
		if err := h.knows(in.Schema); err != nil {
			return out, err
		}
		out.Listed, err = h.Backend.List(ctx, in.Schema)
		return out, err
	case "Destroy":
		if !idForm.MatchString(in.ID) {
			return out, fmt.Errorf("sandbox: %q is no id", in.ID)
		}
		return out, h.Backend.Destroy(ctx, in.ID)
	}
	return out, fmt.Errorf("sandbox: the launcher knows no %q", call)
}

// admits returns why a worker may not have what it asks for.
func (h *Handler) admits(c sandbox.Creation) error {
	if image := c.Spec.Image; image != "" && !h.Images.Allow(image) {
		return &sandbox.ImageError{Backend: h.Backend.Name(), Image: image, Reason: "not one that the broker allows: see Images of its Config, -docker-images of brokerd"}
	}
	return h.knows(c.Labels.Schema)
}

// knows returns that a worker is of another schema.
func (h *Handler) knows(schema string) error {
	if h.Schema == "" || schema == h.Schema {
		return nil
	}
	return &sandbox.UnavailableError{Backend: h.Backend.Name(), Reason: fmt.Sprintf("the broker is of schema %q, and has no sandboxes for %q", h.Schema, schema)}
}

// dial connects a worker to the tool runner of a sandbox, which believes who has the sandbox's token.
func (h *Handler) dial(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if r.ProtoMajor != 1 || r.Header.Get("Upgrade") != Protocol || !idForm.MatchString(id) {
		http.Error(w, "no request", http.StatusBadRequest)
		return
	}
	w.Header().Set("Connection", "close") // if it does not
	if err := h.Admit(r.Context(), id); err != nil {
		Refuse(w, err)
		return
	}
	far, err := h.Backend.Dial(r.Context(), id)
	if err != nil {
		Refuse(w, err)
		return
	}
	defer far.Close()
	near, rest, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "no connection of its own", http.StatusBadRequest)
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n"); err != nil {
		return
	}
	defer context.AfterFunc(h.Done, func() { near.Close() })()
	join(near, rest.Reader, far)
}

// join copies both ways until one ends.
func join(near net.Conn, rest *bufio.Reader, far net.Conn) {
	var both sync.WaitGroup
	ended := sync.OnceFunc(func() { near.Close(); far.Close() })
	both.Go(func() {
		defer ended()
		if n := rest.Buffered(); n > 0 {
			if _, err := io.CopyN(far, rest, int64(n)); err != nil {
				return
			}
		}
		_, _ = io.Copy(far, near)
	})
	both.Go(func() {
		defer ended()
		_, _ = io.Copy(near, far)
	})
	both.Wait()
}
