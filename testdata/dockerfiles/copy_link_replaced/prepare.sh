ln -s x one/l && ln -s /nowhere two/x && echo l > two/l
