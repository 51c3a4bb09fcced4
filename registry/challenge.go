package registry

import "strings"

// challenge is one way to authenticate that a registry offers.
type challenge struct {
	scheme     string            // lower case
	parameters map[string]string // by lower-case name
}

// parseChallenges reads the values of WWW-Authenticate (RFC 9110, section 11.6.1).
// It forgives: values with ':' and '/' need no quotes, and what cannot be read ends
// the reading.
func parseChallenges(values []string) []challenge {
	var found []challenge
	for _, value := range values {
		found = append(found, parseChallenge(value)...)
	}
	return found
}

// parseChallenge reads one value. A comma separates parameters and challenges
// alike: a word with '=' after it is a parameter, one without begins a challenge.
func parseChallenge(s string) []challenge {
	var found []challenge
	for {
		var word string
		word, s = cutWord(strings.TrimLeft(s, ", \t"), " \t,=\"")
		if word == "" {
			return found
		}
		s = strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(s, "=") {
			found = append(found, challenge{strings.ToLower(word), map[string]string{}})
			continue
		}
		var value string
		value, s = cutValue(strings.TrimLeft(s[1:], " \t"))
		if len(found) == 0 {
			return nil
		}
		parameters := found[len(found)-1].parameters
		if name := strings.ToLower(word); parameters[name] == "" {
			parameters[name] = value
		}
	}
}

func cutWord(s, ends string) (word, rest string) {
	end := strings.IndexAny(s, ends)
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		return cutWord(s, " \t,")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "" // no closing quote
}

// pick returns the first challenge of a scheme.
func pick(challenges []challenge, scheme string) (challenge, bool) {
	for _, c := range challenges {
		if c.scheme == scheme {
			return c, true
		}
	}
	return challenge{}, false
}
