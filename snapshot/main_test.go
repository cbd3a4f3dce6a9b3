package snapshot

import (
	"os"
	"testing"

	"github.com/seed0570efb0/build/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Run(m)) }
