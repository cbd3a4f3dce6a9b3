package collect

import (
	"container/heap"
	"time"
)

// recordSize is what the names of a result take beside its bytes: the record of its chain and an index entry.
const recordSize = 2 * 4096

// choose returns what to evict from inv, in order, so that p is kept. A record goes before those it is made on, and of all
// that may go the one that is worth the least goes first. What p.Match or a reason keeps stays, with all it is made on.
func choose(inv *Inventory, p Policy, now time.Time) []*Record {
	if inv.Total <= p.Keep {
		return nil
	}
	c := &chooser{policy: p, now: now, above: map[*Record]int{}, users: map[*layer][]*Record{}, left: map[*layer]int{}, gone: map[*Record]bool{}}
	for _, r := range inv.Records {
		if r.parent != nil {
			c.above[r.parent]++
		}
		if r.layer != nil {
			c.users[r.layer] = append(c.users[r.layer], r)
			c.left[r.layer] = r.layer.users
		}
	}
	for _, r := range inv.Records {
		c.consider(r)
	}
	var out []*Record
	for total := inv.Total; total > p.Goal && c.queue.Len() > 0; {
		r := heap.Pop(&c.queue).(candidate).Record
		if c.gone[r] {
			continue
		}
		c.gone[r] = true
		out = append(out, r)
		total -= c.frees(r)
		c.evicted(r)
	}
	return out
}

// A chooser knows what would be left after what was chosen so far.
type chooser struct {
	policy Policy
	now    time.Time
	queue  queue
	above  map[*Record]int // how many records are made on it
	users  map[*layer][]*Record
	left   map[*layer]int // how many records have it
	gone   map[*Record]bool
}

// consider puts r into the queue, if it may be evicted now.
func (c *chooser) consider(r *Record) {
	if !c.gone[r] && c.above[r] == 0 && c.may(r) {
		heap.Push(&c.queue, candidate{r, c.worth(r)})
	}
}

func (c *chooser) may(r *Record) bool {
	if !r.Reclaimable() || c.policy.Match != nil && !c.policy.Match(r) {
		return false
	}
	return c.policy.All || r.Type != Internal && !c.bound(r)
}

// bound reports whether the bytes of r stay in any case, since something that is kept has them.
func (c *chooser) bound(r *Record) bool {
	if r.layer == nil {
		return false
	}
	for _, other := range c.users[r.layer] {
		if !other.Reclaimable() {
			return true
		}
	}
	return false
}

// evicted says that r is gone: what it was made on may follow, and who else has its layer would free more than before.
func (c *chooser) evicted(r *Record) {
	if r.parent != nil {
		c.above[r.parent]--
		c.consider(r.parent)
	}
	if r.layer == nil {
		return
	}
	if c.left[r.layer]--; c.left[r.layer] == 1 {
		for _, other := range c.users[r.layer] {
			c.consider(other)
		}
	}
}

// frees returns how many bytes the eviction of r makes free.
func (c *chooser) frees(r *Record) int64 {
	if r.layer != nil && c.left[r.layer] > 1 {
		return recordSize
	}
	return r.Size + recordSize
}

// worth returns what r is worth to its next user, for each byte it takes: the time it saves, less the longer nobody has used it.
func (c *chooser) worth(r *Record) float64 {
	age := max(c.now.Sub(r.LastUsed), time.Second)
	return rebuild(r).Seconds() / float64(c.frees(r)) / age.Seconds()
}

// rebuild returns how long it would take to have r again. Where that was not measured, it goes by what it is: a download, what a
// package manager has downloaded or a compiler made, or the reading of a folder.
func rebuild(r *Record) time.Duration {
	if r.Cost > 0 {
		return r.Cost
	}
	const latency = time.Second / 2
	rate := map[Type]int64{Layer: 20 << 20, CacheMount: 5 << 20, Context: 1 << 20, Internal: 1 << 20}[r.Type] // bytes a second
	return latency + time.Duration(float64(r.Size)/float64(rate)*float64(time.Second))
}

// A candidate is what may be evicted now. Its worth may have fallen since, and then it is in the queue a second time.
type candidate struct {
	*Record
	worth float64
}

// A queue is a heap of candidates, the one that is worth the least first.
type queue []candidate

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].worth != q[j].worth {
		return q[i].worth < q[j].worth
	}
	return string(q[i].ID[:]) < string(q[j].ID[:]) // the same choice every time
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
