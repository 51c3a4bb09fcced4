package operator

import (
	"encoding/json"
	"fmt"
	"slices"

	"berth/container"
	"berth/internal/strictjson"
)

// ACLs say who may do what. The zero value allows nothing. Where no rule matches, what
// counts is Permissive.
type ACLs struct {
	Permissive bool
	lists      map[string][]rule
}

// rule is one of a list, of which the first that matches counts.
type rule struct {
	principals, objects entity
}

// entity is a set of names.
type entity struct {
	Type   string   `json:"type"` // SOME, which is the default: Values; ANY; NONE
	Values []string `json:"values"`
}

// objectNames are the lists, and what the objects of each are called. Those of the second
// half are not in Mesos.
var objectNames = map[string]string{
	"launch_nested_containers_as_user":                        "users",
	"launch_nested_containers_under_parent_with_user":         "users",
	"launch_nested_container_sessions_as_user":                "users",
	"launch_nested_container_sessions_under_parent_with_user": "users",
	"kill_nested_containers":                                  "users",
	"wait_nested_containers":                                  "users",
	"remove_nested_containers":                                "users",
	"attach_containers_input":                                 "users",
	"attach_containers_output":                                "users",
	"view_containers":                                         "users",
	"launch_standalone_containers":                            "users",
	"kill_standalone_containers":                              "users",
	"wait_standalone_containers":                              "users",
	"remove_standalone_containers":                            "users",
	"view_standalone_containers":                              "users",
	"access_sandboxes":                                        "users",
	"prune_images":                                            "images",
	"view_flags":                                              "flags",
	"set_log_level":                                           "level",
	"get_endpoints":                                           "paths",

	"view_metrics": "metrics",
	"view_images":  "images",
	"pull_images":  "images",
}

// maxACLs bounds the text.
const maxACLs = 1 << 20

// ParseACLs reads the ACLs of Mesos, as JSON:
//
//	{"permissive": false, "view_containers": [
//	    {"principals": {"values": ["ops"]}, "users": {"type": "ANY"}}]}
//
// Without permissive, nothing is allowed that no rule allows; Mesos has it the other way.
// ErrInvalid: what there is of it is not understood, also a list that is not known.
func ParseACLs(text []byte) (*ACLs, error) {
	var members map[string]json.RawMessage
	if err := strictjson.Decode(text, maxACLs, &members); err != nil {
		return nil, fmt.Errorf("ACLs: %w", err)
	}
	a := &ACLs{lists: make(map[string][]rule)}
	for name, value := range members {
		var err error
		if name == "permissive" {
			err = strictjson.Unmarshal(value, &a.Permissive)
		} else {
			a.lists[name], err = parseRules(name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("ACLs: %s: %w", name, err)
		}
	}
	return a, nil
}

func parseRules(list string, text json.RawMessage) (rules []rule, err error) {
	objects, ok := objectNames[list]
	if !ok {
		return nil, fmt.Errorf("%w: there is no such list", container.ErrInvalid)
	}
	var all []map[string]entity
	if err := strictjson.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for _, members := range all {
		for name, e := range members {
			switch {
			case name != "principals" && name != objects:
				return nil, fmt.Errorf("%w: %q is not a member of a rule; these are principals and %s", container.ErrInvalid, name, objects)
			case !slices.Contains([]string{"", "SOME", "ANY", "NONE"}, e.Type):
				return nil, fmt.Errorf("%w: the type %q is none of SOME, ANY and NONE", container.ErrInvalid, e.Type)
			}
		}
		principals, hasPrincipals := members["principals"]
		of, hasObjects := members[objects]
		if !hasPrincipals || !hasObjects {
			return nil, fmt.Errorf("%w: a rule lacks principals or %s", container.ErrInvalid, objects)
		}
		rules = append(rules, rule{principals, of})
	}
	return rules, nil
}

// matches reports whether a name is in the set. That nobody may is a statement about
// everybody.
func (e entity) matches(name string) bool {
	return e.Type == "ANY" || e.Type == "NONE" || slices.Contains(e.Values, name)
}

// allow goes by the first rule of a list that is about the principal and the object.
func (a *ACLs) allow(principal, list, object string) bool {
	if a == nil {
		return false
	}
	for _, r := range a.lists[list] {
		if r.principals.matches(principal) && r.objects.matches(object) {
			return r.principals.Type != "NONE" && r.objects.Type != "NONE"
		}
	}
	return a.Permissive
}
