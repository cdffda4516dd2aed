package filestore

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
)

// A mark is the newest generation that is known of, and the MAC of its index.
type mark struct {
	generation int64
	sum        string
}

// admits refuses an index that is older than one that was there before.
func (m mark) admits(path string, x *index) error {
	if x.Generation < m.generation {
		return &CorruptError{path, fmt.Sprintf("was set back: it is of generation %d, and there was %d", x.Generation, m.generation)}
	}
	if x.Generation == m.generation && x.sum != m.sum {
		return &CorruptError{path, fmt.Sprintf("is not the one of generation %d that there was", m.generation)}
	}
	return nil
}

func (x *index) mark() mark { return mark{x.Generation, x.sum} }

// readMark returns the zero mark if there is none.
func (s *Store) readMark(keys *keyring) (mark, error) {
	data, err := s.marks.read(filepath.Base(s.config.Mark), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	} else if err != nil {
		return mark{}, err
	}
	var key int
	var m mark
	var sum string
	n, _ := fmt.Sscanf(string(data), "%d %d %64s %64s", &key, &m.generation, &m.sum, &sum)
	k, ok := keys.find(key)
	if n != 4 || !ok || !hmac.Equal([]byte(sum), []byte(m.mac(k))) {
		return mark{}, &CorruptError{s.config.Mark, "is another store's, or was changed"}
	}
	return m, nil
}

func (s *Store) writeMark(x *index) error {
	m := x.mark()
	return s.marks.write(filepath.Base(s.config.Mark), fmt.Appendf(nil, "%d %d %s %s\n", x.key.Generation, m.generation, m.sum, m.mac(x.key)))
}

func (m mark) mac(key dek) string {
	return fmt.Sprintf("%x", key.mac("mark", []byte(strconv.FormatInt(m.generation, 10)+" "+m.sum)))
}
