// Package resources reads amounts out of the resources and limits of a
// ContainerConfig.
package resources

import (
	"fmt"
	"math"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
)

// scalars are the names of resources that are amounts.
var scalars = []string{"cpus", "mem", "disk", "gpus"}

// Check refuses what is requested but is no resource, so that nobody takes it for none:
// one without a name, without the value that its type says, with an amount that is
// negative or no number, or an amount of cpus, mem, disk or gpus that is none. ErrInvalid.
func Check(config *v1.ContainerConfig) error {
	for _, r := range config.GetResources() {
		var why string
		value := r.GetScalar().GetValue()
		switch {
		case r.GetName() == "":
			why = "it has no name"
		case slices.Contains(scalars, r.GetName()) && r.GetType() != v1.Value_SCALAR:
			why = "it is an amount, with type SCALAR"
		case r.GetType() == v1.Value_SCALAR && r.GetScalar() == nil, r.GetType() == v1.Value_RANGES && r.GetRanges() == nil, r.GetType() == v1.Value_SET && r.GetSet() == nil:
			why = "it has no value of its type"
		case r.GetType() == v1.Value_SCALAR && !(value >= 0 && value <= math.MaxFloat64): // NaN, too
			why = fmt.Sprintf("%v is no amount", value)
		}
		if why != "" {
			return fmt.Errorf("resource %q: %w: %s", r.GetName(), container.ErrInvalid, why)
		}
	}
	return nil
}

// Requested returns the sum of the scalar resources of a name, and whether there is
// any. Fractions below a thousandth do not count, as in Mesos. What is no amount
// (infinite, not a number) is not there.
func Requested(config *v1.ContainerConfig, name string) (float64, bool) {
	var sum float64
	var found bool
	for _, r := range config.GetResources() {
		value := r.GetScalar().GetValue()
		if r.GetName() == name && r.GetType() == v1.Value_SCALAR && !math.IsNaN(value) && !math.IsInf(value, 0) {
			sum += value
			found = true
		}
	}
	return math.Round(sum*1000) / 1000, found
}

// Limit returns the limit of a name, and whether there is a finite one.
func Limit(config *v1.ContainerConfig, name string) (float64, bool) {
	scalar, ok := config.GetLimits()[name]
	value := scalar.GetValue()
	return value, ok && !math.IsInf(value, 1)
}
