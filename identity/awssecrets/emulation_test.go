package awssecrets_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// An emulation is Secrets Manager as far as a broker meets it: it checks signatures, rights and
// parameters, and says what AWS says.
type emulation struct {
	server *httptest.Server

	mu      sync.Mutex
	secrets map[string]*kept
	trouble string            // the code of every answer
	denied  map[string]string // user to the beginning of the names that it may not use
}

type kept struct {
	versions map[string]held
	current  string
	deleted  bool
}

type held struct {
	text    *string
	binary  []byte
	created time.Time
}

const (
	region = "eu-central-1"
	admin  = "AKIAADMIN"
	reader = "AKIAREADER"
	secret = "sEcReTkEy-of-the-broker"
)

func emulate(t testing.TB) *emulation {
	e := &emulation{secrets: map[string]*kept{}, denied: map[string]string{}}
	e.server = httptest.NewServer(e)
	t.Cleanup(e.server.Close)
	return e
}

func (e *emulation) client(user, key string) *secretsmanager.Client {
	return secretsmanager.New(secretsmanager.Options{
		Region: region, BaseEndpoint: &e.server.URL, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: user, SecretAccessKey: key}, nil
		}),
	})
}

type refusal struct{ code, message string }

func (r refusal) Error() string { return r.code }

func (e *emulation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	out, err := e.answer(r, body)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if err != nil {
		no, ok := err.(refusal) //nolint:errorlint // made here
		if !ok {
			no = refusal{"InternalServiceError", err.Error()}
		}
		w.WriteHeader(http.StatusBadRequest)
		out = map[string]string{"__type": no.code, "Message": no.message}
	}
	_ = json.NewEncoder(w).Encode(out)
}

var (
	authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([A-Z]+)/(\d{8})/` + region + `/secretsmanager/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)
	goodName      = regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]{1,512}$`)
)

// signed returns who has signed the request.
func signed(r *http.Request, body []byte) (string, error) {
	got := r.Header.Get("Authorization")
	m := authorization.FindStringSubmatch(got)
	if m == nil {
		return "", refusal{"IncompleteSignatureException", "Authorization=" + got}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute {
		return "", refusal{"InvalidSignatureException", "Signature expired"}
	}
	again, _ := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body)) //nolint:noctx // is not sent
	for _, name := range strings.Split(m[3], ";") {
		if name != "host" && name != "content-length" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	again.ContentLength = int64(len(body))
	hash := fmt.Sprintf("%x", sha256.Sum256(body))
	if err := v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: m[1], SecretAccessKey: secret}, again, hash, "secretsmanager", region, at); err != nil {
		return "", err
	}
	if again.Header.Get("Authorization") != got {
		return "", refusal{"InvalidSignatureException", "The request signature we calculated does not match " + got}
	}
	return m[1], nil
}

func (e *emulation) answer(r *http.Request, body []byte) (any, error) {
	user, err := signed(r, body)
	if err != nil {
		return nil, err
	}
	call, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	if !ok || r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		return nil, refusal{"UnknownOperationException", ""}
	}
	var in struct {
		Name, SecretId, VersionId, VersionStage, ClientRequestToken string
		SecretString                                                *string
		SecretBinary                                                []byte
		ForceDeleteWithoutRecovery                                  bool
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, refusal{"SerializationException", err.Error()}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	name := in.SecretId + in.Name
	switch no := e.denied[user]; {
	case e.trouble != "":
		return nil, refusal{e.trouble, "for " + r.Header.Get("Authorization")}
	case no != "" && strings.HasPrefix(name, no) || user != admin && call != "GetSecretValue" && call != "DescribeSecret":
		return nil, refusal{"AccessDeniedException", "User: " + user + " is not authorized to perform: " + call}
	case !goodName.MatchString(name):
		return nil, refusal{"ValidationException", "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!"}
	case in.VersionId != "" && (len(in.VersionId) < 32 || len(in.VersionId) > 64):
		return nil, refusal{"InvalidParameterException", "VersionId"}
	case in.SecretString != nil && len(*in.SecretString) > 65536 || len(in.SecretBinary) > 65536:
		return nil, refusal{"ValidationException", "Member must have length less than or equal to 65536"}
	}
	s := e.secrets[name]
	if call != "CreateSecret" && s == nil {
		return nil, refusal{"ResourceNotFoundException", "Secrets Manager can't find the specified secret."}
	}
	if s != nil && s.deleted && call != "DescribeSecret" && call != "DeleteSecret" {
		return nil, refusal{"InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion."}
	}
	switch call {
	case "CreateSecret", "PutSecretValue":
		if s == nil {
			s = &kept{versions: map[string]held{}}
			e.secrets[name] = s
		} else if call == "CreateSecret" {
			return nil, refusal{"ResourceExistsException", ""}
		}
		if len(in.ClientRequestToken) < 32 {
			return nil, refusal{"InvalidParameterException", "ClientRequestToken"}
		}
		s.current = in.ClientRequestToken
		s.versions[s.current] = held{in.SecretString, in.SecretBinary, time.Now()}
		return map[string]any{"Name": name, "VersionId": s.current}, nil
	case "DeleteSecret":
		s.deleted = true
		if in.ForceDeleteWithoutRecovery {
			delete(e.secrets, name)
		}
		return map[string]any{"Name": name}, nil
	case "DescribeSecret":
		return map[string]any{"Name": name}, nil
	case "GetSecretValue":
		id := s.current
		if in.VersionId != "" {
			id = in.VersionId
		}
		v, ok := s.versions[id]
		if !ok {
			return nil, refusal{"ResourceNotFoundException", "Secrets Manager can't find the specified secret value for VersionId: " + id}
		}
		return map[string]any{
			"Name": name, "VersionId": id, "SecretString": v.text, "SecretBinary": v.binary, "CreatedDate": float64(v.created.UnixMilli()) / 1000,
		}, nil
	}
	return nil, refusal{"UnknownOperationException", call}
}
