chmod 4755 d/f && mkdir d/s && chmod 1777 d/s && echo x > d/x && chmod 444 d/x
