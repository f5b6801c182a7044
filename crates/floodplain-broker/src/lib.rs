pub mod folds;
