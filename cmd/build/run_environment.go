package main

import (
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/pkg/kvfile"
)

// defaultPath is where commands are looked up in an image that does not say it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment returns the variables of a container: what everyone gets, under those of the image, under those of
// --env-file, under those of --env.
func environment(image []string, o *runOptions) ([]string, error) {
	env := []string{"PATH=" + defaultPath}
	if o.tty {
		env = append(env, "TERM=xterm")
	}
	env = override(env, image)
	for _, file := range o.envFiles {
		list, err := kvfile.Parse(file, os.LookupEnv)
		if err != nil {
			return nil, usagef("a line is KEY=VALUE, or KEY for that of this environment", "--env-file: %w", fileError(err))
		}
		env = override(env, list)
	}
	for _, text := range o.env {
		k, _, ok := strings.Cut(text, "=")
		if k == "" {
			return nil, usagef("it looks like KEY=VALUE", "--env %q: the key is empty", text)
		}
		if !ok {
			v, set := os.LookupEnv(k)
			if !set {
				continue
			}
			text = k + "=" + v
		}
		env = override(env, []string{text})
	}
	return env, nil
}

// override returns env with the variables of more, which win.
func override(env, more []string) []string {
	out := slices.Clone(env)
	for _, kv := range more {
		k, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(e string) bool { return strings.HasPrefix(e, k+"=") })
		out = append(out, kv)
	}
	return out
}
