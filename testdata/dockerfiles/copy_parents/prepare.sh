chmod 775 a && chmod 1777 a/b
