package brokerlink

import (
	"slices"
	"strings"
	"testing"
)

// What a broker says reaches its worker without what it must not have.
func TestSaying(t *testing.T) {
	for in, want := range map[string]string{
		"the passphrase is wrong\nexit":                                                                          "the passphrase is wrong\nexit",
		"dial postgres://ada:hunter2@db/x?sslpassword=canary: refused":                                           "dial postgres://…@db/x?… refused",
		"bad password=c4Nary/Pa55word=":                                                                          "bad password=[REDACTED:password]",
		"got hvs." + strings.Repeat("CanaryCanary", 3) + "\nand so":                                              "what the broker says is kept back: it has vault-token\nand so",
		"before\npanic: s3cr3t-canary\n\tits second line\n\tpanic: again\n\ngoroutine 1 [running]:\nmain.main()": "before\npanic: what it is about is kept back\ngoroutine 1 [running]:\nmain.main()",
	} {
		var got []string
		s := newSaying(Setup{Password: "c4Nary/Pa55word="}, func(line string) { got = append(got, line) })
		for line := range strings.Lines(in) {
			s.line(strings.TrimSuffix(line, "\n"))
		}
		if !slices.Equal(got, strings.Split(want, "\n")) {
			t.Errorf("%q: got %q", in, got)
		}
	}
}
