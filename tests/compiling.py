"""How programs are compiled while tests run."""

# In about half of the processor time for models as small as those of tests; what is compared is compiled alike.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
