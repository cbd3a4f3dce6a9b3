package collect

import "testing"

func TestSpace(t *testing.T) {
	const total, free = 1000, 300
	for _, tt := range []struct {
		name  string
		space Space
		keep  int64
	}{
		{"nothing is said", Space{}, 0},
		{"reserved", Space{Reserved: 200}, 200},
		{"max used", Space{MaxUsed: 400}, 400},
		{"the larger one counts", Space{Reserved: 500, MaxUsed: 400}, 500},
		{"enough is free", Space{MinFree: 300}, total},
		{"enough is free, and a maximum", Space{MinFree: 300, MaxUsed: 400}, 400},
		{"not enough is free", Space{MinFree: 400}, 900},
		{"not enough is free, and a maximum that frees more", Space{MinFree: 400, MaxUsed: 800}, 800},
		{"not enough is free, and a maximum that frees less", Space{MinFree: 400, MaxUsed: 950}, 900},
		{"more than there is", Space{MinFree: 5000}, 0},
		{"more than there is, but for what is reserved", Space{MinFree: 5000, MaxUsed: 900, Reserved: 100}, 100},
	} {
		if got := tt.space.keep(total, free); got != tt.keep {
			t.Errorf("%s: it keeps %d, want %d", tt.name, got, tt.keep)
		}
	}
}
