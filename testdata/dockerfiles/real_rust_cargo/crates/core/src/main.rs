fn core() {}
