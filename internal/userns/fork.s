// This file is empty. With it the compiler accepts the functions without a body in fork.go.
