package filestore

import (
	"bytes"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	indexFile = "index"
	maxIndex  = 256 << 20
)

// An index says what a store has. Each change makes another, a generation higher.
type index struct {
	Generation int64              `json:"generation"`
	Tenants    map[string]secrets `json:"tenants"`

	key dek // that signed it, and that its records are under
	sum string
}

type secrets map[string]*secret

type secret struct {
	Last     int       `json:"last"` // version; counted on after all were deleted
	Versions []version `json:"versions"`
}

type version struct {
	Number  int       `json:"version"`
	Created time.Time `json:"created"`
	File    string    `json:"file,omitempty"` // empty: destroyed
}

// errUnknownKey is for an index under a key that was made after the keyring was read.
var errUnknownKey = errors.New("unknown key")

// sign makes the file: a line with the key's generation and the MAC, then JSON.
func (x *index) sign(key dek) ([]byte, error) {
	body, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%d %s\n", key.Generation, x.mac(key, body)), body...), nil
}

func (*index) mac(key dek, body []byte) string { return fmt.Sprintf("%x", key.mac("index", body)) }

func parseIndex(path string, data []byte, keys *keyring) (*index, error) {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	var generation int
	var sum string
	if n, _ := fmt.Sscanf(string(head), "%d %64s", &generation, &sum); n != 2 {
		return nil, &CorruptError{path, "was changed or cut"}
	}
	key, ok := keys.find(generation)
	if !ok {
		return nil, errUnknownKey
	}
	x := &index{key: key, sum: sum}
	if !hmac.Equal([]byte(sum), []byte(x.mac(key, body))) || json.Unmarshal(body, x) != nil {
		return nil, &CorruptError{path, "was changed or cut"}
	}
	return x, nil
}

func (x *index) find(tenant, name string) *secret { return x.Tenants[tenant][name] }

// files are the records that the index has.
func (x *index) files() map[string]bool {
	files := map[string]bool{}
	for _, secrets := range x.Tenants {
		for _, s := range secrets {
			for _, v := range s.Versions {
				if v.File != "" {
					files[v.File] = true
				}
			}
		}
	}
	return files
}
