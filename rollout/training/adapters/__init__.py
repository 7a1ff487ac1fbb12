"""Groups in the words of training libraries. Each adapter imports its library only when called."""
