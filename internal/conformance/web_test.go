package conformance

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed0570efb0/build/internal/digest"
)

// newWeb serves the folder web of each case in dir, as /CASE/FILE, until the test ends. All files are of the same second,
// whenever they were checked out.
func newWeb(t *testing.T, dir string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, file, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		text, err := os.ReadFile(filepath.Join(dir, name, "web", filepath.Join("/", file)))
		if name == "" {
			text, err = []byte("root\n"), nil
		}
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+digest.Of(text).Short()+`"`)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(string(text)))
	}))
	t.Cleanup(server.Close)
	return server.URL
}
