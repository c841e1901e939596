"""What is measured: a module for each protocol, and the bench that all of them work on."""
