package testkit

import (
	"testing/synctest"
	"time"
)

// Pass lets d pass on the clock of a synctest bubble, which takes no time. Outside of a bubble it panics: no test waits for a real clock.
func Pass(d time.Duration) {
	synctest.Wait()
	time.Sleep(d)
}
