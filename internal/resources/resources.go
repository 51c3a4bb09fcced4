// Package resources reads amounts out of the resources and limits of a
// ContainerConfig.
package resources

import (
	"math"

	v1 "berth/api/v1"
)

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
