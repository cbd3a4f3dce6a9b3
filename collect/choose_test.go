package collect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

var someDay = time.Unix(1_700_000_000, 0)

// randomInventory returns records over shared layers, some of which tags and builds keep with all they are made on.
func randomInventory(r *rand.Rand) *Inventory {
	inv := &Inventory{}
	layers := make([]*layer, 1+r.IntN(20))
	for i := range layers {
		layers[i] = &layer{id: digest.Of(fmt.Append(nil, "layer", i)), size: r.Int64N(1 << 30)}
		inv.Total += layers[i].size
	}
	for i := range r.IntN(60) {
		l := layers[r.IntN(len(layers))]
		l.users++
		rec := &Record{ID: digest.Of(fmt.Append(nil, i)), Type: Layer, Size: l.size, layer: l,
			LastUsed: someDay.Add(-time.Duration(r.Int64N(int64(1000 * time.Hour)))), Cost: time.Duration(r.Int64N(int64(time.Hour)))}
		if len(inv.Records) > 0 && r.IntN(3) > 0 {
			rec.parent = inv.Records[r.IntN(len(inv.Records))]
		}
		inv.Records = append(inv.Records, rec)
		inv.Total += recordSize
	}
	for range r.IntN(4) {
		if len(inv.Records) == 0 {
			break
		}
		for p := inv.Records[r.IntN(len(inv.Records))]; p != nil; p = p.parent {
			p.Kept = "a reason"
		}
	}
	for i := range r.IntN(5) {
		rec := &Record{ID: digest.Of(fmt.Append(nil, "mount", i)), Type: CacheMount, Size: r.Int64N(1 << 30), LastUsed: someDay}
		if r.IntN(2) == 0 {
			rec.Kept = "a step uses it"
		}
		inv.Records = append(inv.Records, rec)
		inv.Total += rec.Size
	}
	return inv
}

// left returns what the store takes without what was chosen.
func left(inv *Inventory, chosen []*Record) int64 {
	users := map[*layer]int{}
	total := inv.Total
	for _, r := range chosen {
		total -= recordSize
		if r.layer == nil {
			total -= r.Size
		} else if users[r.layer]++; users[r.layer] == r.layer.users {
			total -= r.layer.size
		}
	}
	return total
}

func TestChooseKeepsWhatIsNeeded(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		inv := randomInventory(r)
		p := Policy{All: true, Keep: r.Int64N(inv.Total + 1)}
		p.Goal = r.Int64N(p.Keep + 1)
		chosen := choose(inv, p, someDay)
		gone := map[*Record]bool{}
		for _, rec := range chosen {
			if gone[rec] {
				t.Fatalf("seed %d: something is chosen twice", seed)
			}
			gone[rec] = true
			if rec.Kept != "" {
				t.Fatalf("seed %d: something is chosen that is kept", seed)
			}
		}
		for _, rec := range inv.Records {
			if !gone[rec] && rec.parent != nil && gone[rec.parent] {
				t.Fatalf("seed %d: what something is made on is gone", seed)
			}
		}
		for i, rec := range chosen {
			if rec.parent != nil && slices.Contains(chosen[:i], rec.parent) {
				t.Fatalf("seed %d: something goes after what it is made on", seed)
			}
		}
		if inv.Total <= p.Keep && len(chosen) > 0 {
			t.Fatalf("seed %d: something goes although there is room", seed)
		}
		if after := left(inv, chosen); inv.Total > p.Keep && after > p.Goal {
			for _, rec := range inv.Records {
				if !gone[rec] && rec.Kept == "" {
					t.Fatalf("seed %d: %d bytes are left of %d wanted, and something could go", seed, after, p.Goal)
				}
			}
		}
		if n := len(chosen); n > 0 && left(inv, chosen[:n-1]) <= p.Goal-recordSize {
			t.Fatalf("seed %d: more goes than is needed", seed)
		}
		if again := choose(inv, p, someDay); !slices.Equal(again, chosen) {
			t.Fatalf("seed %d: it is chosen otherwise the second time", seed)
		}
	}
}

func TestChooseTheLeastWorth(t *testing.T) {
	record := func(name string, size int64, cost, age time.Duration) *Record {
		return &Record{ID: digest.Of([]byte(name)), Type: Layer, Description: name, Size: size, Cost: cost, LastUsed: someDay.Add(-age),
			layer: &layer{size: size, users: 1}}
	}
	for name, pair := range map[string][2]*Record{ // the first one goes
		"quick":            {record("a", 1<<20, time.Second, time.Hour), record("b", 1<<20, time.Minute, time.Hour)},
		"large":            {record("a", 1<<30, time.Minute, time.Hour), record("b", 1<<20, time.Minute, time.Hour)},
		"long unused":      {record("a", 1<<20, time.Minute, 100*time.Hour), record("b", 1<<20, time.Minute, time.Hour)},
		"old but precious": {record("a", 1<<20, time.Second, time.Hour), record("b", 1<<20, time.Hour, 10*time.Hour)},
	} {
		inv := &Inventory{Records: []*Record{pair[1], pair[0]}, Total: pair[0].Size + pair[1].Size}
		chosen := choose(inv, Policy{All: true, Keep: inv.Total - 1, Goal: inv.Total - 1}, someDay)
		if len(chosen) != 1 || chosen[0] != pair[0] {
			t.Errorf("%s: %d are chosen", name, len(chosen))
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	inv := &Inventory{}
	var parent *Record
	for i := range 100_000 {
		if i%20 == 0 {
			parent = nil
		}
		r := &Record{ID: digest.Of(fmt.Append(nil, i)), Type: Layer, Size: 1 << 20, LastUsed: someDay, parent: parent, layer: &layer{size: 1 << 20, users: 1}}
		inv.Records, inv.Total, parent = append(inv.Records, r), inv.Total+r.Size, r
	}
	for b.Loop() {
		choose(inv, Policy{All: true, Goal: inv.Total / 2}, someDay)
	}
}
