package testkit

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestAwaitEnd(t *testing.T) {
	cat := exec.Command("cat")
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := AwaitEnd(ctx, cat.Process.Pid); !errors.Is(err, enough) {
		t.Errorf("a process that runs: %v", err)
	}
	in.Close()
	if err := AwaitEnd(Patience(t), cat.Process.Pid); err != nil {
		t.Errorf("a process that ends: %v", err)
	}
	cat.Wait()
	if err := AwaitEnd(Patience(t), cat.Process.Pid); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestAwaitNone(t *testing.T) {
	mark := "MARK=" + t.TempDir()
	marked := func(proc string) bool { return ProcHolds(proc+"/environ", mark) }
	cat := exec.Command("cat")
	cat.Env = []string{mark}
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	if list := Processes(marked); len(list) != 1 {
		t.Errorf("got %v", list)
	}
	in.Close()
	AwaitNone(t, marked) // though it is not waited for
	if list := Processes(marked); len(list) != 0 {
		t.Errorf("got %v", list)
	}
	cat.Wait()
}

func TestProcOpens(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	if !ProcOpens("/proc/self", dir) || ProcOpens("/proc/self", dir+"/f") {
		t.Error("a file is open below the folder, and nothing below the file")
	}
	f.Close()
	if ProcOpens("/proc/self", dir) {
		t.Error("the file is closed")
	}
}

func TestRecorderAwaits(t *testing.T) {
	var rec Recorder
	host := Registry(t, rec.Record)
	got := make(chan error)
	go func() { got <- rec.Await(Patience(t), "/v2/app/manifests/1") }()
	_, _ = pull(t, host+"/app:2")
	_, _ = pull(t, host+"/app:1")
	if err := <-got; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("nobody asks any more"))
	if err := rec.Await(ctx, "/v2/app/manifests/1"); err != nil {
		t.Errorf("one that was there: %v", err)
	}
	if err := rec.Await(ctx, "/v2/none"); err == nil || !strings.HasSuffix(err.Error(), `"/v2/none": nobody asks any more`) {
		t.Errorf("got %v", err)
	}
}
