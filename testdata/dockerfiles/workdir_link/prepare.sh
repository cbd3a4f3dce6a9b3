ln -s /etc d/link
