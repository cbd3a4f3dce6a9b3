ln -s d link && ln -s f1 d/f2
