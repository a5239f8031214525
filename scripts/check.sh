do_test() { :; }
