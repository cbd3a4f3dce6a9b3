package history

import "github.com/seed0570efb0/build/internal/digest"

// pair finds, for each step of now, the step of old that it was, or -1: by its definition; else by its text, within its stage
// and in order; else by its kind, between those that were found, for a step whose text was changed.
func pair(now, old *Graph) []int {
	p := &pairing{now: now, old: old, of: make([]int, len(now.Steps)), taken: make([]bool, len(old.Steps))}
	for i := range p.of {
		p.of[i] = -1
	}
	p.byID()
	stages := map[string][2][]int{}
	var order []string
	add := func(g *Graph, side int, free func(int) bool) {
		for i := range g.Steps {
			if !free(i) {
				continue
			}
			stage, _ := g.Steps[i].parts()
			s, seen := stages[stage]
			if !seen {
				order = append(order, stage)
			}
			s[side] = append(s[side], i)
			stages[stage] = s
		}
	}
	add(now, 0, func(i int) bool { return p.of[i] < 0 })
	add(old, 1, func(i int) bool { return !p.taken[i] })
	for _, stage := range order {
		p.align(stages[stage][0], stages[stage][1])
	}
	p.anywhere()
	return p.of
}

type pairing struct {
	now, old *Graph
	of       []int  // step of now -> step of old
	taken    []bool // steps of old
}

func (p *pairing) match(i, j int) { p.of[i], p.taken[j] = j, true }

// byID pairs vertices that are the same.
func (p *pairing) byID() {
	at := map[digest.Digest]int{}
	for j := range p.old.Steps {
		at[p.old.Steps[j].ID] = j
	}
	for i := range p.now.Steps {
		if j, ok := at[p.now.Steps[i].ID]; ok {
			p.match(i, j)
		}
	}
}

// align pairs the steps of one stage, a of now and b of old: those with the same text first, as a longest common subsequence, and
// between them the others by kind.
func (p *pairing) align(a, b []int) {
	same := func(x, y int) bool {
		s, o := &p.now.Steps[a[x]], &p.old.Steps[b[y]]
		_, t := s.parts()
		_, u := o.parts()
		return s.Kind == o.Kind && t == u
	}
	x, y := 0, 0
	for _, m := range common(len(a), len(b), same) {
		p.gap(a[x:m[0]], b[y:m[1]])
		p.match(a[m[0]], b[m[1]])
		x, y = m[0]+1, m[1]+1
	}
	p.gap(a[x:], b[y:])
}

// gap pairs steps by their kind, in order.
func (p *pairing) gap(a, b []int) {
	for _, i := range a {
		for k, j := range b {
			if p.now.Steps[i].Kind == p.old.Steps[j].Kind {
				p.match(i, j)
				b = b[k+1:]
				break
			}
		}
	}
}

// anywhere pairs what is left by kind and text: a stage has another name now.
func (p *pairing) anywhere() {
	type what struct {
		kind Kind
		text string
	}
	at := map[what][]int{}
	for j := range p.old.Steps {
		if !p.taken[j] {
			_, text := p.old.Steps[j].parts()
			w := what{p.old.Steps[j].Kind, text}
			at[w] = append(at[w], j)
		}
	}
	for i := range p.now.Steps {
		_, text := p.now.Steps[i].parts()
		w := what{p.now.Steps[i].Kind, text}
		if p.of[i] < 0 && len(at[w]) > 0 {
			p.match(i, at[w][0])
			at[w] = at[w][1:]
		}
	}
}

// most is how large the table of common may be. Stages whose changed parts are longer are compared as far as they begin alike.
const most = 4 << 20

// common returns the places, ascending, of a longest common subsequence of two sequences of n and m elements.
func common(n, m int, same func(x, y int) bool) (out [][2]int) {
	head := 0
	for head < n && head < m && same(head, head) {
		out = append(out, [2]int{head, head})
		head++
	}
	tail := 0
	for tail < n-head && tail < m-head && same(n-1-tail, m-1-tail) {
		tail++
	}
	h, w := n-head-tail, m-head-tail
	if h*w <= most {
		// length[x][y] is that of the longest one from x and y on.
		length := make([]int32, (h+1)*(w+1))
		at := func(x, y int) *int32 { return &length[x*(w+1)+y] }
		for x := h - 1; x >= 0; x-- {
			for y := w - 1; y >= 0; y-- {
				if same(head+x, head+y) {
					*at(x, y) = 1 + *at(x+1, y+1)
				} else {
					*at(x, y) = max(*at(x+1, y), *at(x, y+1))
				}
			}
		}
		for x, y := 0, 0; x < h && y < w; {
			switch {
			case same(head+x, head+y):
				out = append(out, [2]int{head + x, head + y})
				x, y = x+1, y+1
			case *at(x+1, y) >= *at(x, y+1):
				x++
			default:
				y++
			}
		}
	}
	for k := tail; k > 0; k-- {
		out = append(out, [2]int{n - k, m - k})
	}
	return out
}
