sed 's/$/\r/; 1s/^/\xef\xbb\xbf/' Dockerfile > x && mv x Dockerfile
