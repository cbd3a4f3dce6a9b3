ln -s nowhere d/l
