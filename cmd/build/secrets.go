package main

import (
	"net"

	"github.com/seed0570efb0/build/executor"
	"github.com/seed0570efb0/build/source"
)

// planSecrets reads --secret and --ssh.
func planSecrets(p *plan) error {
	p.secrets, p.agents = map[string]source.Secret{}, map[string]func(net.Conn){}
	for _, text := range p.buildOptions.secrets {
		s, err := source.ParseSecret(text)
		if err != nil {
			return usagef("it looks like id=ID,src=FILE or id=ID,env=VARIABLE", "--secret %s: %w", text, fileError(err))
		}
		p.secrets[s.ID] = s
	}
	for _, text := range p.buildOptions.agents {
		a, err := source.ParseAgent(text)
		if err != nil {
			return usagef("it looks like default, ID=SOCKET or ID=KEY; a key must have no passphrase", "--ssh %s: %w", text, fileError(err))
		}
		if _, twice := p.agents[a.ID]; twice {
			return usagef("", "--ssh %s: duplicate agent ID %q", text, a.ID)
		}
		p.agents[a.ID] = a.Serve
	}
	return nil
}

// useSecrets makes the secrets and the agents of the command line known to all who may ask for them.
func (a *app) useSecrets(p *plan) {
	a.executor.Secrets, a.executor.Agents = p.secret, p.agents
	a.remote.Secrets = p.secret
	if serve := p.agents["default"]; serve != nil {
		a.remote.Agent = func(dir string) (string, func(), error) { return executor.ServeAgent(dir, serve) }
	}
}

// secret returns the value of a secret of the command line.
func (p *plan) secret(id string) ([]byte, bool, error) {
	s, ok := p.secrets[id]
	if !ok {
		return nil, false, nil
	}
	b, err := s.Read()
	return b, err == nil, err
}
