package vault

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// maxAnswer is how many bytes an answer of Vault may have. A secret has at most a megabyte there.
const maxAnswer = 4 << 20

// A RedirectError reports that Vault sends on to another address, which the broker's token is not for. A standby
// does so whose cluster forwards no requests: Config.Address is to be the active one's, or a balancer's.
type RedirectError struct {
	Host string // with the port, or empty
}

func (e *RedirectError) Error() string {
	return fmt.Sprintf("vault: it sends on to %.100q: Config.Address is to answer itself", e.Host)
}

// A guard is a transport that takes no redirect and no endless answer.
type guard struct{ to http.RoundTripper }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := g.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		_ = answer.Body.Close()
		sent := &RedirectError{}
		if u, err := url.Parse(answer.Header.Get("Location")); err == nil {
			sent.Host = u.Host
		}
		return nil, sent
	}
	answer.Body = &bounded{answer.Body, maxAnswer}
	return answer, nil
}

// A bounded body fails when more of it comes than may.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("vault: the answer has more than %d MiB", maxAnswer>>20)
	}
	return n, err
}
