package cedar

import (
	_ "embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/stepward/stepward/identity"
)

// Schema is what policies can be about, as Cedar's tools read it.
//
//go:embed schema.cedarschema
var Schema string

var validator = sync.OnceValues(func() (*validate.Validator, error) {
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(Schema)); err != nil {
		return nil, err
	}
	r, err := s.Resolve()
	if err != nil {
		return nil, err
	}
	return validate.New(r), nil
})

// Parse reads a policy: it is an identity.Engine. The error is an *identity.ProfileError
// with Line and Column: of what is not Cedar, or of the statement that is not within [Schema].
func Parse(text string) (identity.Policy, error) {
	p, err := parse(text)
	if err != nil {
		return nil, err
	}
	v, err := validator()
	if err != nil {
		return nil, fmt.Errorf("cedar: schema: %w", err)
	}
	for _, s := range p {
		if err := v.Policy("", (*ast.Policy)(s.AST())); err != nil {
			reason, _, _ := strings.Cut(err.Error(), "\n")
			at := s.Position()
			return nil, refuse(at.Line, at.Column, strings.TrimPrefix(reason, "for policy ``, "))
		}
		if id := s.Annotations()["id"]; len(id) > 100 || strings.ContainsFunc(string(id), func(r rune) bool { return !unicode.IsPrint(r) }) {
			at := s.Position()
			return nil, refuse(at.Line, at.Column, "bad @id: want up to 100 bytes that can be printed")
		}
	}
	return p, nil
}

// parse reads a policy that may be about anything.
func parse(text string) (policy, error) {
	if line, column, reason := excess(text); reason != "" {
		return nil, refuse(line, column, reason)
	}
	all, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		return nil, placed(err)
	}
	if len(all) == 0 {
		return nil, refuse(1, 1, "no statement, which would deny everything: leave it empty, or forbid")
	}
	return policy(all), nil
}

const maxReason = 300

func refuse(line, column int, reason string) error {
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	return &identity.ProfileError{Line: line, Column: column, Reason: reason}
}

var position = regexp.MustCompile(`^parser error: (?:parse error at )?<input>:(\d+):(\d+):? ?`)

// placed takes the place out of an error of the parser.
func placed(err error) error {
	text := err.Error()
	at := position.FindStringSubmatch(text)
	if at == nil {
		return refuse(1, 1, text)
	}
	line, _ := strconv.Atoi(at[1])
	column, _ := strconv.Atoi(at[2])
	return refuse(max(line, 1), max(column, 1), strings.TrimPrefix(text, at[0]))
}
