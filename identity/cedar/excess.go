package cedar

import (
	"fmt"
	"unicode"
)

// Bounds of what takes the parser more than its length in time, or deep into its stack.
const (
	maxText   = 16 << 10
	maxDepth  = 32 // of brackets, and of one operator after the other
	maxChain  = 16 // of attributes: "has a.b.c" costs the cube of its length
	maxNested = 32 // if in if
)

// excess returns where and why a text is refused before it is parsed. It knows strings,
// comments and names, and nothing else of the language.
func excess(text string) (line, column int, reason string) {
	if len(text) > maxText {
		return 1, 1, fmt.Sprintf("%d bytes, the limit is %d", len(text), maxText)
	}
	line = 1
	var word []rune
	var before rune
	depth, unary, chain, nested := 0, 0, 0, 0
	in := rune(0) // what the text is within: '"', '/' or '*' of a comment
	for _, r := range text + "\n" {
		column++
		escaped := before == '\\'
		switch in {
		case '"':
			if r == '"' && !escaped {
				in = 0
			}
		case '/':
			if r == '\n' {
				in = 0
			}
		case '*':
			if before == '*' && r == '/' {
				in, r = 0, ' '
			}
		default:
			if name := r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r); name {
				word, unary = append(word, r), 0
				break
			}
			if string(word) == "if" {
				nested++
			}
			word = word[:0]
			switch r {
			case ' ', '\t', '\n', '\r':
			case '.':
				chain++
			case '!', '-':
				unary++
				chain = 0
			case '(', '[', '{':
				depth++
				chain = 0
			case ')', ']', '}':
				depth--
				chain = 0
			case ';':
				depth, unary, chain, nested = 0, 0, 0, 0
			case '"':
				in, chain = r, 0
			case '/', '*':
				if before == '/' {
					in, r = r, 0
				}
			default:
				unary, chain = 0, 0
			}
		}
		switch {
		case depth > maxDepth:
			return line, column, fmt.Sprintf("brackets are nested more than %d deep", maxDepth)
		case unary > maxDepth:
			return line, column, fmt.Sprintf("more than %d operators without anything between", maxDepth)
		case chain > maxChain:
			return line, column, fmt.Sprintf("more than %d attributes of attributes", maxChain)
		case nested > maxNested:
			return line, column, fmt.Sprintf("more than %d times if in one statement", maxNested)
		}
		if in == '"' && escaped && r == '\\' {
			r = 0 // of a pair
		}
		if r == '\n' {
			line, column = line+1, 0
		}
		before = r
	}
	return 0, 0, ""
}
