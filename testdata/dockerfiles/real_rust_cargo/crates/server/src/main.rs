fn server() {}
