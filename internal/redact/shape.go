package redact

import (
	"regexp"
	"slices"
	"sync"
)

// shapes are what keys of well-known issuers look like. No length is demanded that
// an issuer may change.
var shapes = sync.OnceValue(func() []shape {
	return []shape{
		{"anthropic-key", regexp.MustCompile(`\bsk-ant-[\w-]{20,}`)},
		{"aws-access-key", regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z2-7]{16}\b`)},
		{"github-token", regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{30,}|ghs_[0-9]+_eyJ|github_pat_\w{30,})`)},
		{"gitlab-token", regexp.MustCompile(`\bgl(?:pat|dt|rt|cbt|ptt|ft|soat)-[\w.-]{20,}`)},
		{"google-api-key", regexp.MustCompile(`\bAIza[\w-]{35}`)},
		{"jwt", regexp.MustCompile(`\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}`)},
		{"npm-token", regexp.MustCompile(`\bnpm_[A-Za-z0-9]{30,}`)},
		{"openai-key", regexp.MustCompile(`\bsk-(?:proj|svcacct|admin)-[\w-]{20,}`)},
		{"private-key", regexp.MustCompile(`-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----`)},
		{"slack-token", regexp.MustCompile(`\bxox[abeoprs](?:\.xox[bp])?-[\w-]{10,}`)},
		{"slack-webhook", regexp.MustCompile(`\bhooks\.slack\.com/(?:services|workflows)/[\w/]{20,}`)},
		{"stripe-key", regexp.MustCompile(`\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9+/]{20,}`)},
		{"url-password", regexp.MustCompile(`\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@"'<>\[\]]*:[^\s/:@"'<>\[\]]{8,}@`)},
		{"vault-token", regexp.MustCompile(`\bhv[sbr]\.[\w-]{20,}`)},
	}
})

type shape struct {
	kind string
	text *regexp.Regexp
}

// Shapes returns what kinds of keys text seems to hold, in order. It needs no
// values: it is for who must not know them.
func Shapes(text []byte) (kinds []string) {
	for _, s := range shapes() {
		if s.text.Match(text) {
			kinds = append(kinds, s.kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}
