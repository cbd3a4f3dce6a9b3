build:
	CGO_ENABLED=0 scripts/go build -trimpath -ldflags '-s -w' -o bin/build ./cmd/build
hello:
	examples/hello/run
test:
	scripts/test
lint:
	scripts/go vet ./... && test -z "$$(gofmt -l .)"
fuzz:
	scripts/fuzz 5m
bench:
	scripts/go test -run '^$$' -bench . -benchtime 1s ./...
.PHONY: build hello test lint fuzz bench
