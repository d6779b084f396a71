// Products of warpgroups under way: asked for, counted in groups, and carried out at the wait.
#pragma once

#include "barrier.h"

namespace cuda_on_cpu {

void request_product(float* d, uint64_t a, uint64_t b, void (*of_warp)(Fiber*), const Site& site) {
  Unseen unseen;
  Thread& thread = processor().thread();
  thread.products.push_back({d, a, b, of_warp, thread.product_groups, site.file, site.line});
}

void products_commit() {
  Unseen unseen;
  ++processor().thread().product_groups;
}

// Carries out all products but those of the last `keep` groups, and those in no group yet
void products_wait(int keep) {
  std::vector<WarpgroupProduct>& products = processor().thread().products;
  const unsigned groups = processor().thread().product_groups;
  size_t done = 0;
  for (; done < products.size() && products[done].group + keep < groups; ++done)
    meet_warp(ALL_LANES, {"products", products[done].file, products[done].line}, &products[done],
              products[done].of_warp);
  Unseen unseen;
  products.erase(products.begin(), products.begin() + done);
}

}  // namespace cuda_on_cpu
