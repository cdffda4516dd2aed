package filestore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// A dek is the key of a store's records, of one generation.
type dek struct {
	Generation int    `json:"generation"`
	Key        []byte `json:"key"`
}

func newDEK(generation int) dek {
	d := dek{generation, make([]byte, 32)}
	rand.Read(d.Key)
	return d
}

// sub derives the key for one purpose.
func sub(key []byte, purpose string) []byte {
	k, err := hkdf.Key(sha256.New, key, nil, "stepward filestore 1 "+purpose, 32)
	if err != nil {
		panic(err) // only for an absurd length
	}
	return k
}

func (d dek) mac(purpose string, data []byte) []byte { return mac(sub(d.Key, purpose), data) }

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}

func (d dek) aead() cipher.AEAD {
	block, err := aes.NewCipher(sub(d.Key, "record"))
	if err != nil {
		panic(err) // only for an odd length
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

// seal encrypts a record that is to be taken for nothing but what facts say.
func (d dek) seal(value []byte, facts ...string) []byte {
	gcm := d.aead()
	nonce := make([]byte, gcm.NonceSize(), gcm.NonceSize()+len(value)+gcm.Overhead())
	rand.Read(nonce)
	return gcm.Seal(nonce, nonce, value, join(facts))
}

func (d dek) open(record []byte, facts ...string) ([]byte, error) {
	gcm := d.aead()
	if len(record) < gcm.NonceSize() {
		return nil, errors.New("cut")
	}
	return gcm.Open(nil, record[:gcm.NonceSize()], record[gcm.NonceSize():], join(facts))
}

// join is no other list's.
func join(facts []string) []byte {
	var out []byte
	for _, f := range facts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}
