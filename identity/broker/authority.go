package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/stepward/stepward/internal/envelope"
)

// An authority is what the sandbox of one attempt trusts the broker by, for the hosts that secrets are put
// into the requests to. Its key comes from the broker's, and is nowhere written down.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

const authorityLasts = 366 * 24 * time.Hour

// authority returns that of an envelope: the same key each time.
func (r *root) authority(id envelope.ID, hosts []string) (authority, error) {
	var key *ecdsa.PrivateKey
	err := fmt.Errorf("broker: no key for an authority")
	for n := byte(0); err != nil && n < 8; n++ { // about none is beyond the order of the curve
		raw := mac(r.authorities, []byte("authority"), id[:], []byte{n})
		key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
		clear(raw)
	}
	if err != nil {
		return authority{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Stepward broker, envelope " + hex.EncodeToString(id[:])},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(authorityLasts),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: hosts,
		ExcludedIPRanges: []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authority{key, cert}, err
}

// pem is the certificate as programs read it.
func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf returns a certificate for a host.
func (a authority) leaf(host string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Stepward broker"}, DNSNames: []string{host},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// placeholder is what stands for a value in the sandbox of an envelope.
func (r *root) placeholder(id envelope.ID, name, prefix string) string {
	return prefix + hex.EncodeToString(mac(r.authorities, []byte("placeholder"), id[:], []byte(name))[:20])
}
