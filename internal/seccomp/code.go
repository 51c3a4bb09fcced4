package seccomp

import (
	"maps"
	"slices"
)

// instruction is a struct sock_filter (linux/filter.h).
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

const (
	loadWord    = 0x20 // BPF_LD | BPF_W | BPF_ABS
	and         = 0x54 // BPF_ALU | BPF_AND | BPF_K
	jumpAlways  = 0x05 // BPF_JMP | BPF_JA
	jumpEqual   = 0x15
	jumpGreater = 0x25
	jumpAtLeast = 0x35
	ret         = 0x06 // BPF_RET | BPF_K
)

// Where things are in struct seccomp_data, on a machine whose low bytes come first.
const (
	numberOffset = 0
	archOffset   = 4
	argsOffset   = 16
)

// x32 marks the numbers of the x32 calls of amd64.
const x32 = 0x40000000

func load(offset uint32) instruction { return instruction{code: loadWord, k: offset} }

func jump(code uint16, k uint32, jt, jf uint8) instruction { return instruction{code, jt, jf, k} }

func giveBack(decision uint32) instruction { return instruction{code: ret, k: decision} }

// span is what happens to system calls from a number on, up to the next span.
type span struct {
	from uint32
	code []instruction
}

// code returns the program for calls of an architecture: a search by halves, so that no
// call waits for hundreds of comparisons.
func (r *rules) code(a arch) []instruction {
	return append([]instruction{load(numberOffset)}, search(r.spans(a))...)
}

// spans cover all numbers, in order.
func (r *rules) spans(a arch) []span {
	always := map[uint32][]instruction{} // most calls share a few decisions
	decided := func(decision uint32) []instruction {
		if always[decision] == nil {
			always[decision] = []instruction{giveBack(decision)}
		}
		return always[decision]
	}
	other, nothing := decided(r.other), decided(errno|enosys)
	all := append(make([]span, 0, 2*len(r.calls)+4), span{0, other})
	add := func(from uint32, code []instruction) {
		last := &all[len(all)-1]
		switch {
		case last.from == from:
			last.code = code
		case !slices.Equal(last.code, code):
			all = append(all, span{from, code})
		}
	}
	hides := r.other != allow && r.other != logged
	newer := hides // they do not exist for the container
	numbers := slices.AppendSeq(make([]uint32, 0, len(r.calls)), maps.Keys(r.calls))
	slices.Sort(numbers)
	for _, number := range numbers {
		if newer && number >= privateCalls {
			add(r.last+1, nothing)
			newer = false
		}
		if o := r.calls[number]; o.always != nil {
			add(number, decided(*o.always))
		} else {
			add(number, o.code(r.other, a))
		}
		after := other
		if number >= privateCalls && hides {
			after = nothing
		}
		add(number+1, after)
	}
	if newer {
		add(r.last+1, nothing)
	}
	if a.goarch == "amd64" {
		add(x32, nothing)
	}
	return merge(all)
}

// merge joins neighbours that are alike.
func merge(all []span) []span {
	return slices.CompactFunc(all, func(a, b span) bool { return slices.Equal(a.code, b.code) })
}

func search(spans []span) []instruction {
	if len(spans) == 1 {
		return spans[0].code
	}
	middle := len(spans) / 2
	below, above := search(spans[:middle]), search(spans[middle:])
	first := []instruction{jump(jumpAtLeast, spans[middle].from, 0, 1), {code: jumpAlways, k: uint32(len(below))}}
	if len(below) <= 255 {
		first = []instruction{jump(jumpAtLeast, spans[middle].from, uint8(len(below)), 0)}
	}
	return slices.Concat(first, below, above)
}

// code tries one alternative after the other.
func (o outcome) code(other uint32, a arch) (code []instruction) {
	for _, alternative := range o.alternatives {
		code = append(code, alternative.code(a)...)
	}
	return append(code, giveBack(other))
}

// code gives the decision back if all comparisons hold, else it leads to what follows.
func (alternative alternative) code(a arch) []instruction {
	code := []instruction{giveBack(alternative.decision)}
	for _, arg := range slices.Backward(alternative.args) {
		code = append(arg.code(a, len(code)), code...)
	}
	return code
}

// Where a comparison leads.
const (
	next = iota // to its next instruction
	pass        // it holds: to what follows it
	fail        // it does not: past what follows it
)

// comparison is what a comparison does to a half of an argument; jt and jf are some of the
// above.
type comparison struct {
	code   uint16
	jt, jf int
}

// comparisons has for each operator what it does to the higher half, then to the lower one.
var comparisons = map[string][]comparison{
	"SCMP_CMP_EQ":        {{jumpEqual, next, fail}, {jumpEqual, pass, fail}},
	"SCMP_CMP_MASKED_EQ": {{jumpEqual, next, fail}, {jumpEqual, pass, fail}},
	"SCMP_CMP_NE":        {{jumpEqual, next, pass}, {jumpEqual, fail, pass}},
	"SCMP_CMP_GT":        {{jumpGreater, pass, next}, {jumpEqual, next, fail}, {jumpGreater, pass, fail}},
	"SCMP_CMP_GE":        {{jumpGreater, pass, next}, {jumpEqual, next, fail}, {jumpAtLeast, pass, fail}},
	"SCMP_CMP_LE":        {{jumpGreater, fail, next}, {jumpEqual, next, pass}, {jumpGreater, fail, pass}},
	"SCMP_CMP_LT":        {{jumpGreater, fail, next}, {jumpEqual, next, pass}, {jumpAtLeast, fail, pass}},
}

// code compares an argument. past is the length of what follows.
func (arg Argument) code(a arch, past int) []instruction {
	offset := uint32(argsOffset + 8*arg.Index)
	value, mask := arg.Value, ^uint64(0)
	if arg.Op == "SCMP_CMP_MASKED_EQ" {
		mask, value = arg.Value, arg.ValueTwo
	}
	steps := comparisons[arg.Op]
	var plain []comparison // one for each instruction; loads and masks lead on
	var code []instruction
	half := func(offset, value, mask uint32, steps ...comparison) {
		code = append(code, load(offset))
		if mask != ^uint32(0) {
			code = append(code, instruction{code: and, k: mask})
		}
		for len(plain) < len(code) {
			plain = append(plain, comparison{})
		}
		for _, s := range steps {
			code, plain = append(code, instruction{code: s.code, k: value}), append(plain, s)
		}
	}
	if a.wide {
		half(offset+4, uint32(value>>32), uint32(mask>>32), steps[:len(steps)-1]...)
	}
	half(offset, uint32(value), uint32(mask), steps[len(steps)-1])
	for i, s := range plain {
		left := len(code) - i - 1
		lead := [...]uint8{next: 0, pass: uint8(left), fail: uint8(left + past)}
		code[i].jt, code[i].jf = lead[s.jt], lead[s.jf]
	}
	return code
}
