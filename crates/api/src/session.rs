//! Parameters of exec (contract, exec-protocol 3).
