ln -s d/f l && ln -s d dl
