package lower

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/seed0570efb0/build/llb"
)

// mounts reads the --mount flags of a RUN into op and returns the further inputs that they show.
func (s *stage) mounts(c *instructions.RunCommand, op *llb.Exec) ([]*llb.Vertex, error) {
	mounts, err := readMounts(c, s.expand)
	if err != nil {
		return nil, err
	}
	var inputs []*llb.Vertex
	agents := 0
	for i, m := range mounts {
		mount, err := s.mount(m)
		if err != nil {
			return nil, err
		}
		if mount.Type == llb.MountSSH {
			if mount.Target == "" {
				mount.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", agents)
			}
			agents++
			if _, ok := s.env.Get(agentVariable); !ok && agents == 1 {
				op.Env = append(op.Env, agentVariable+"="+mount.Target)
			}
		}
		if mount.Target, err = s.mountTarget(mount); err != nil {
			return nil, err
		}
		input, err := s.mountSource(m, s.current.sources[i])
		if err != nil {
			return nil, err
		}
		if input != nil {
			if !slices.Contains(inputs, input) {
				inputs = append(inputs, input)
			}
			mount.From = 1 + slices.Index(inputs, input)
		}
		op.Mounts = append(op.Mounts, mount)
	}
	return inputs, nil
}

// reading guards the instructions while their mounts are read.
var reading sync.Mutex

// readMounts returns the mounts of c, with their words expanded unless expand is nil. The parser's library keeps in the
// instruction what it has expanded last, but the instruction belongs to the File, which is lowered more than once, at the
// same time perhaps.
func readMounts(c *instructions.RunCommand, expand instructions.SingleWordExpander) ([]*instructions.Mount, error) {
	reading.Lock()
	defer reading.Unlock()
	if err := c.Expand(expand); err != nil {
		return nil, err
	}
	mounts := instructions.GetMounts(c)
	return mounts, c.Expand(nil) // as it was
}

// agentVariable tells a process where its SSH agent is.
const agentVariable = "SSH_AUTH_SOCK"

// mount returns m but for its input and the final form of its target.
func (s *stage) mount(m *instructions.Mount) (llb.Mount, error) {
	out := llb.Mount{Type: llb.MountType(m.Type), Target: m.Target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case instructions.MountTypeBind:
		out.Source = path.Join("/", m.Source)
	case instructions.MountTypeCache:
		return s.cacheMount(m, out), nil
	case instructions.MountTypeTmpfs:
		out.Size = m.SizeLimit
	case instructions.MountTypeSecret:
		return secretMount(m, out), nil
	case instructions.MountTypeSSH:
		if m.Source != "" {
			return out, errors.New("ssh does not support source")
		}
		out.ReadOnly, out.ID, out.Required, out.Access = false, m.CacheID, m.Required, access(m, 0o600)
	}
	return out, nil
}

func (s *stage) cacheMount(m *instructions.Mount, out llb.Mount) llb.Mount {
	id := m.CacheID
	if id == "" {
		id = path.Clean(m.Target)
	}
	out.ID = s.opt.BuildArgs["BUILDKIT_CACHE_MOUNT_NS"] + "/" + id
	out.Source = path.Join("/", m.Source)
	if out.Sharing = llb.Sharing(m.CacheSharing); out.Sharing == "" {
		out.Sharing = llb.SharingShared
	}
	if m.Mode != nil || m.UID != nil || m.GID != nil {
		out.Access = access(m, 0o755)
	}
	return out
}

// secretMount returns the mount of a secret: a file unless it is only asked for as a variable.
func secretMount(m *instructions.Mount, out llb.Mount) llb.Mount {
	out.ID, out.ReadOnly, out.Required, out.Access = m.CacheID, true, m.Required, access(m, 0o400)
	if m.Source != "" {
		out.ID = m.Source
	}
	if out.ID == "" {
		out.ID = path.Base(m.Target)
	}
	switch {
	case m.Env == nil && out.Target == "":
		out.Target = "/run/secrets/" + path.Base(out.ID)
	case m.Env != nil && *m.Env == "":
		out.Env = out.ID
	case m.Env != nil:
		out.Env = *m.Env
	}
	return out
}

func access(m *instructions.Mount, mode uint32) *llb.Access {
	a := &llb.Access{Mode: mode}
	if m.Mode != nil {
		a.Mode = uint32(*m.Mode) & 0o7777
	}
	if m.UID != nil {
		a.UID = int(*m.UID)
	}
	if m.GID != nil {
		a.GID = int(*m.GID)
	}
	return a
}

func (s *stage) mountTarget(m llb.Mount) (string, error) {
	if m.Type == llb.MountSecret && m.Target == "" {
		return "", nil
	}
	target := path.Clean(m.Target)
	if !path.IsAbs(target) {
		target = path.Join(s.workdir(), m.Target)
	}
	if target == "/" {
		return "", fmt.Errorf("invalid mount target %q", target)
	}
	return target, nil
}

// mountSource returns the vertex that m shows or is filled from, or nil.
func (s *stage) mountSource(m *instructions.Mount, source *stage) (*llb.Vertex, error) {
	switch {
	case m.Type != instructions.MountTypeBind && m.Type != instructions.MountTypeCache:
		return nil, nil
	case source != nil && !source.done:
		return nil, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
	case source != nil && source.folder != nil:
		return source.folder, nil
	case source != nil:
		return source.root, nil
	case m.Type == instructions.MountTypeCache:
		return nil, nil
	}
	return s.mainContext(), nil
}

// masked returns the variables as people may see them in the name of a step: those that hold a secret are hidden.
func (s *stage) masked(mounts []llb.Mount) *environment {
	env := s.env
	for _, m := range mounts {
		if m.Env == "" {
			continue
		}
		if env == s.env {
			env = env.clone()
		}
		env.set(m.Env, "****")
	}
	return env
}
